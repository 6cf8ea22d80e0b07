"""What a client may change during a scan, and how a wrong request is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from streamer.config import PipelineConfig

_CHANGEABLE: dict[str, set[str] | None] = {"decisions": None, "anomaly": None, "windows": None}


class RequestError(ValueError):
    """A request that cannot be answered; its text is the nack's sentence."""


def changeable(config: PipelineConfig) -> dict[str, Any]:
    """Return the settings that may change during a scan, as they are in force."""
    dump = config.model_dump(mode="json")
    return {
        section: dump[section] if keys is None else {k: dump[section][k] for k in sorted(keys)}
        for section, keys in _CHANGEABLE.items()
    }


def changed_config(config: PipelineConfig, params: Mapping[str, Any]) -> PipelineConfig:
    """Return `config` with the changes of a `settings` request; a window set to null is removed.

    Raises
    ------
    RequestError
        Naming the key that is unknown, fixed during a scan, or has a wrong value.
    """
    dump = config.model_dump()
    for section, values in params.items():
        allowed = _CHANGEABLE.get(section, set())
        if section not in _CHANGEABLE or not isinstance(values, Mapping):
            raise RequestError(f"settings: {section} cannot be changed; what can: {', '.join(_CHANGEABLE)}")
        wrong = [k for k in values if allowed is not None and k not in allowed]
        if wrong:
            raise RequestError(f"settings: {section}.{wrong[0]} cannot be changed during a scan")
        dump[section] = {**dump[section], **values}
    dump["windows"] = {label: window for label, window in dump["windows"].items() if window is not None}
    try:
        return PipelineConfig.model_validate(dump)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where, text = ".".join(str(p) for p in first["loc"]), first["msg"].removeprefix("Value error, ")
        raise RequestError(f"settings: {where}: {text}" if where else f"settings: {text}") from error
