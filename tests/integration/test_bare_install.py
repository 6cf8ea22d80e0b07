"""What a microscope PC needs: nothing but numpy, pyzmq, msgpack and pydantic."""

from __future__ import annotations

import subprocess
import sys

import pytest

ROLES = {
    "streamer.client": {
        "typer",
        "rich",
        "scipy",
        "sklearn",
        "matplotlib",
        "prometheus_client",
        "pydantic_settings",
        "numba",
    },
    "streamer.watch": {"scipy", "sklearn", "matplotlib", "prometheus_client", "pydantic_settings", "numba"},
}


@pytest.mark.parametrize(("module", "unwanted"), ROLES.items(), ids=ROLES)
def test_a_module_can_be_imported_without_what_its_role_does_not_bring(module: str, unwanted: set[str]) -> None:
    program = f"import sys; sys.modules.update(dict.fromkeys({sorted(unwanted)!r})); import {module}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
