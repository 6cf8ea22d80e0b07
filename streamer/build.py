"""Which version this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def program_version() -> str:
    """Return the installed version, or what a source tree is."""
    try:
        return version("scanwise")
    except PackageNotFoundError:
        return "not installed"
