"""Makes simulator processes without the seconds of imports and tables that each of them would need.

``python -m tests.system.simulators`` reads one command line a line, as JSON, and forks a process that does what
``scanwise simulate`` does with it; for each it writes one line of JSON: exit code and output.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO


class Simulators:
    """The other end: `start` a simulator, then `wait` for its exit code and output."""

    def __init__(self, stdin: IO[str], stdout: IO[str]) -> None:
        self._stdin, self._stdout = stdin, stdout

    def start(self, arguments: list[str]) -> None:
        self._stdin.write(json.dumps(arguments) + "\n")
        self._stdin.flush()

    def wait(self) -> tuple[int, str]:
        code, said = json.loads(self._stdout.readline())
        return int(code), str(said)


@contextmanager
def simulators() -> Iterator[Simulators]:
    command = [sys.executable, "-m", "tests.system.simulators"]
    # A terminal so wide that no line of output is broken; and no threads that wait for each other on a busy machine.
    env = {**os.environ, "COLUMNS": "400", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Simulators(process.stdin, process.stdout)
        finally:
            process.stdin.close()
            process.kill()


def _run(arguments: list[str], output: Path) -> int:
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        file = os.open(output, os.O_CREAT | os.O_WRONLY)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.argv = ["scanwise", "simulate", *arguments]
        from streamer.__main__ import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        os._exit(code)


def _serve() -> None:
    # What takes long is done before anything is forked: imports, and the tables of lines and absorption.
    import simulator.cli  # noqa: F401
    from simulator.sample import load_specimen

    load_specimen("exercise", shape=(8, 8), channels=64)
    with TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        while line := sys.stdin.readline():
            code = _run(json.loads(line), output)
            sys.stdout.write(json.dumps([code, output.read_text()]) + "\n")
            sys.stdout.flush()
            output.unlink()


if __name__ == "__main__":
    _serve()
