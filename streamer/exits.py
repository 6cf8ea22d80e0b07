"""How the program ends: every exit code, and the error that carries one.

===  =========================================================================================
  0  clean: finished, or stopped by one SIGTERM or SIGINT after it had finished what it held
  1  `scanwise doctor` found a problem
  2  the command line is wrong
 69  a port is taken, or an endpoint, key or state folder cannot be used
 70  internal error: a thread died; the traceback is in the log
 74  the recording cannot be written (disk full, I/O error)
 78  the configuration is wrong; the message names the key
130  SIGINT came a second time: ended at once (143 after SIGTERM); or a command but `run` was interrupted
===  =========================================================================================

The numbers are those of sysexits.h, so that `RestartPreventExitStatus=78` and the like mean what they say.
"""

from __future__ import annotations

from typing import Final

OK: Final = 0
PROBLEM: Final = 1
USAGE: Final = 2
UNAVAILABLE: Final = 69
INTERNAL: Final = 70
IO_ERROR: Final = 74
CONFIG: Final = 78
SIGNALLED: Final = 128


class Exit(Exception):  # noqa: N818 - it ends the program; not every end is an error
    """End the program with `code` and one sentence for the operator.

    Parameters
    ----------
    code : int
        One of this module's.
    text : str
        What is wrong, and what to change.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
