"""The configuration file as text, with what each key means; made from the settings, so that it cannot lag behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from models.library import Library
from streamer.settings import PREFIX, Settings

_HEAD = f"""\
# Configuration of the scanwise daemon: scanwise run --config FILE
# Every key may be left out; what stands here are the defaults. A key with no value is commented out.
# The environment overrides it ({PREFIX}SOURCE__URL=...), flags override both. Unknown keys are errors.
"""


def as_toml(settings: Settings) -> str:
    """Return settings as an annotated TOML file that loads to the same settings."""
    lines: list[str] = [_HEAD]
    for name in type(settings).model_fields:
        lines += _table(name, getattr(settings, name))
    return "\n".join(lines).rstrip() + "\n"


def _table(path: str, section: BaseModel) -> Iterator[str]:
    doc = (type(section).__doc__ or "").partition("\n")[0]
    yield from (f"# {doc}", f"[{path}]")
    tables = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            tables.append((name, value))
            continue
        yield f"# {_meaning(field)}"
        yield f"# {name} =" if value is None else f"{name} = {_value(value)}"
    yield ""
    for name, value in tables:
        yield from _table(f"{path}.{name}", value)


def _meaning(field: FieldInfo) -> str:
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    text = field.description or ""
    return f"{text} ({' | '.join(map(str, choices))})" if choices else text


def _value(value: Any) -> str:
    """Return a value as TOML; strings and numbers are written as in JSON, which TOML reads alike."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(v) for v in value) + "]"
    if isinstance(value, Library):
        return json.dumps(value.path)
    if isinstance(value, Path):
        return json.dumps(str(value))
    return json.dumps(value)
