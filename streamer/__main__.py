"""The command `scanwise`; also `python -m streamer`."""

from __future__ import annotations

import signal
import sys

from streamer.exits import OK, SIGNALLED, USAGE


def main() -> None:
    """Run the command line, or say what it lacks."""
    try:
        from streamer.cli import app

        app(prog_name="scanwise")
    except KeyboardInterrupt:
        # While what it needs is imported nothing was begun: for the daemon that is one signal, and a clean end.
        sys.exit(OK if sys.argv[1:2] == ["run"] else SIGNALLED + signal.SIGINT)
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "click", "rich"}:
            raise
        print(
            f"scanwise: the command line needs the package {error.name}: pip install 'scanwise[cli]' "
            "(or scanwise[daemon], scanwise[all])",
            file=sys.stderr,
        )
        sys.exit(USAGE)


if __name__ == "__main__":
    main()
