"""What is wrong with something that a user wrote, in a sentence instead of a report of the library."""

from __future__ import annotations

from difflib import get_close_matches

from pydantic import ValidationError


def complaint(error: ValidationError) -> str:
    """Return where each mistake is and what it is, such as ``axis.channels: Input should be greater than 0``."""
    return "; ".join(_one(".".join(map(str, e["loc"])), e["type"], e["msg"]) for e in error.errors())


def _one(where: str, kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return f"{where} is unknown here"
    if kind == "missing":
        return f"{where} is missing"
    said = message.removeprefix("Value error, ")
    return f"{where}: {said}" if where else said


def unknown(what: str, name: str, known: list[str]) -> str:
    """Return that there is no such thing, which one may have been meant, and what there is."""
    near = get_close_matches(name, known, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"no {what} {name!r}: {meant}there are {', '.join(known)}"
