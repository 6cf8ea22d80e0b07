"""The command `scanwise`; also `python -m streamer`."""

from __future__ import annotations

import sys

from streamer.exits import USAGE


def main() -> None:
    """Run the command line, or say what it lacks."""
    try:
        from streamer.cli import app
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "click", "rich"}:
            raise
        print(
            f"scanwise: the command line needs the package {error.name}: pip install 'scanwise[cli]' "
            "(or scanwise[daemon], scanwise[all])",
            file=sys.stderr,
        )
        sys.exit(USAGE)
    app(prog_name="scanwise")


if __name__ == "__main__":
    main()
