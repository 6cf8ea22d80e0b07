"""The daemon's settings: file, then environment over it, then flags over both; wrong ones name their key."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from models.card import read_card
from streamer.config import PipelineConfig
from streamer.config_section import Section
from streamer.exits import CONFIG, Exit
from streamer.security import check_secret_file, is_local, split_url

PREFIX: Final = "SCANWISE_"


def _endpoint(url: str) -> str:
    split_url(url)
    return url


def _listen(address: str) -> str:
    if not address:
        return address
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{address!r} is no address: give HOST:PORT, or nothing for no metrics")
    if not is_local(f"tcp://{address}"):
        raise ValueError(f"{host} is not loopback: metrics have no keys; let a proxy or tunnel lead there")
    return address


def _networks(folders: list[Path]) -> list[Path]:
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"there is no folder {folder}")
        for path in sorted(folder.glob("*.onnx")):
            read_card(path)
    return folders


Endpoint = Annotated[str, AfterValidator(_endpoint)]
Listen = Annotated[str, AfterValidator(_listen)]
AtLeastOne = Annotated[int, Field(ge=1)]


class SourceSection(Section):
    """Where spectra come from."""

    url: Endpoint = Field("tcp://127.0.0.1:5555", description="endpoint of the instrument's data")
    pattern: Literal["sub", "pull"] = Field(
        "sub", description="sub for an instrument that publishes, pull for one that pushes"
    )
    bind: bool = Field(False, description="true where the instrument connects to the daemon")
    queue_messages: AtLeastOne | None = Field(
        None, description="messages ZeroMQ holds before the inbox; without it 1000 for sub, 64 for pull"
    )


class ResultsSection(Section):
    """Where results are published."""

    url: Endpoint = Field("tcp://127.0.0.1:5556", description="endpoint that is bound for subscribers")
    queue_messages: AtLeastOne = Field(1000, description="messages queued for a slow subscriber before it loses some")


class ControlSection(Section):
    """Where controllers and viewers ask and are told."""

    url: Endpoint = Field("tcp://127.0.0.1:5557", description="endpoint that is bound for controllers and viewers")


class MetricsSection(Section):
    """Prometheus metrics."""

    listen: Listen = Field("127.0.0.1:9109", description='HOST:PORT of /metrics on loopback; "" for none')


class StateSection(Section):
    """Recordings, and what survives a restart."""

    dir: Path = Field(Path("scanwise-state"), description="folder; one daemon at a time uses it")
    keep_series: AtLeastOne = Field(
        1000, description="recordings of closed series that are kept; the oldest beyond it are deleted"
    )
    keep_gib: Annotated[float, Field(gt=0)] = Field(
        50.0, description="bytes of closed series that are kept, all together, GiB"
    )
    report: bool = Field(True, description="draw a report folder when a series closes")
    umap: bool = Field(
        False,
        description="draw scores in a plane (UMAP) beside it; half a minute at low priority, needs scanwise[umap]",
    )


class InboxSection(Section):
    """What waits between socket and model."""

    messages: AtLeastOne = Field(4096, description="most messages that wait")
    mib: AtLeastOne = Field(256, description="most bytes that wait, MiB")
    policy: Literal["auto", "block", "drop_newest"] = Field(
        "auto",
        description="when full: block makes the sender wait, drop_newest drops and counts; auto: block for pull",
    )


class BatchSection(Section):
    """How much of what has arrived is processed at once; nothing ever waits for more."""

    messages: AtLeastOne = Field(256, description="most messages in a batch")
    mib: AtLeastOne = Field(8, description="most bytes in a batch, MiB")


class NetworksSection(Section):
    """Networks beside the linear model; they look at positions only while nothing else waits."""

    enabled: bool = Field(True, description="use a network where one fits the series")
    folders: Annotated[list[Path], AfterValidator(_networks)] = Field(
        [], description="folders of ONNX files with their cards, searched before the networks that come with scanwise"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where it really works")
    piece_ms: Annotated[float, Field(gt=0, le=1000)] = Field(
        3.0, description="longest time that what comes in may have to wait for a network, ms"
    )
    learn: bool = Field(
        False, description="train a copy on the scan meanwhile, in a process of its own; needs scanwise[train]"
    )
    learn_every_s: Annotated[float, Field(gt=0)] = Field(
        30.0, description="least time between two rounds of learning, seconds"
    )


class ThreadsSection(Section):
    """Threads: more than one pool that is awake costs more than it brings."""

    blas: AtLeastOne = Field(1, description="threads of the linear algebra library")
    switch_interval_s: Annotated[float, Field(gt=0, le=0.1)] = Field(
        0.0001, description="longest time a Python thread keeps the interpreter, seconds"
    )


class SecuritySection(Section):
    """CURVE keys, needed for everything beyond loopback; `scanwise keys DIR` makes pairs."""

    secret_key: Path | None = Field(None, description="the daemon's own .key_secret file, readable by its owner alone")
    clients: Path | None = Field(None, description="folder of the .key files of those who may connect")
    source_key: Path | None = Field(None, description=".key file of the instrument that is connected to")

    @model_validator(mode="after")
    def _files_are_there(self) -> Self:
        if self.secret_key is None:
            if self.clients is not None or self.source_key is not None:
                raise ValueError("secret_key is missing: the daemon needs a key pair of its own")
            return self
        check_secret_file(self.secret_key)
        if self.clients is None or not self.clients.is_dir():
            raise ValueError("clients must be a folder with the .key files of those who may connect")
        if self.source_key is not None and not self.source_key.is_file():
            raise ValueError(f"source_key: there is no file {self.source_key}")
        return self


class LogSection(Section):
    """What is written to stderr."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least important line written")


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        extra="forbid", env_prefix=PREFIX, env_nested_delimiter="__", nested_model_default_partial_update=True
    )

    source: SourceSection = SourceSection()
    results: ResultsSection = ResultsSection()
    control: ControlSection = ControlSection()
    metrics: MetricsSection = MetricsSection()
    state: StateSection = StateSection()
    inbox: InboxSection = InboxSection()
    batch: BatchSection = BatchSection()
    networks: NetworksSection = NetworksSection()
    threads: ThreadsSection = ThreadsSection()
    security: SecuritySection = SecuritySection()
    log: LogSection = LogSection()
    pipeline: PipelineConfig = PipelineConfig()

    @model_validator(mode="after")
    def _keys_beyond_loopback(self) -> Self:
        bound = [("results.url", self.results.url), ("control.url", self.control.url)]
        if self.source.bind:
            bound.append(("source.url", self.source.url))
        for key, url in bound:
            if self.security.secret_key is None and not is_local(url):
                raise ValueError(f"{key}: {url} can be reached from other machines: {_HOW_BOUND}")
        if not (self.source.bind or is_local(self.source.url) or self.security.source_key):
            raise ValueError(f"source.url: {self.source.url} is on another machine: {_HOW_SOURCE}")
        return self

    @property
    def source_queue(self) -> int:
        """Messages ZeroMQ holds; a sender that pushes waits, so few are enough and memory stays small."""
        return self.source.queue_messages or (1000 if self.source.pattern == "sub" else 64)

    @property
    def policy(self) -> Literal["block", "drop_newest"]:
        """The inbox's policy, decided."""
        if self.inbox.policy != "auto":
            return self.inbox.policy
        return "block" if self.source.pattern == "pull" else "drop_newest"


_HOW_BOUND: Final = (
    "set security.secret_key and security.clients (`scanwise keys DIR` makes them), or use 127.0.0.1 and a tunnel"
)
_HOW_SOURCE: Final = (
    "set security.secret_key, security.clients and security.source_key, the instrument's public key "
    "(`scanwise keys DIR` makes pairs), or use a tunnel"
)


def load(
    file: Path | None = None,
    flags: Mapping[str, Mapping[str, Any]] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Read the settings.

    Parameters
    ----------
    file : Path, optional
        TOML.
    flags : map of sections, optional
        What the command line says; None there means not given.
    environment : map, optional
        To look for misspelt ``SCANWISE_...`` variables in; the process's own.

    Raises
    ------
    Exit
        78, with a line for each key that is wrong.
    """
    _check_file(file)
    _check_environment(os.environ if environment is None else environment)
    given = {s: {k: v for k, v in values.items() if v is not None} for s, values in (flags or {}).items()}
    given = {section: values for section, values in given.items() if values}

    class Loaded(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, file)

    try:
        return Loaded(**given)  # type: ignore[arg-type]
    except ValidationError as error:
        raise Exit(CONFIG, _told(error)) from error
    except SettingsError as error:
        named = ", ".join(n for n in sorted(os.environ) if n.upper().startswith(PREFIX))
        raise Exit(CONFIG, f"configuration: {error}: {error.__cause__}; look at {named}") from error


def _check_file(file: Path | None) -> None:
    if file is None:
        return
    try:
        tomllib.loads(file.read_text())
    except OSError as error:
        raise Exit(CONFIG, f"configuration file {file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Exit(CONFIG, f"configuration file {file} is no TOML: {error}") from error


def _check_environment(environment: Mapping[str, str]) -> None:
    """Refuse variables of ours that name no section; the rest is checked like the file's keys."""
    sections = set(Settings.model_fields)
    for name in environment:
        section, _, key = name.upper().removeprefix(PREFIX).partition("__")
        if name.upper().startswith(PREFIX) and (section.lower() not in sections or not key):
            known = ", ".join(f"{PREFIX}{s.upper()}__..." for s in sorted(sections))
            raise Exit(CONFIG, f"environment variable {name} sets nothing; there are {known}")


def _told(error: ValidationError) -> str:
    lines = []
    for one in error.errors(include_url=False):
        path = ".".join(str(p) for p in one["loc"])
        text = one["msg"].removeprefix("Value error, ")
        if one["type"] == "extra_forbidden":
            lines.append(f"{path}: no such key{_near(path)}")
        elif isinstance(one["input"], Mapping | Section | BaseSettings):
            lines.append(f"{path}: {text}" if path else text)
        else:
            lines.append(f"{path}: {one['input']!r}: {text}")
    return "configuration: " + "\n  ".join(lines)


def _near(path: str) -> str:
    """Say which keys there are beside an unknown one."""
    *parents, _ = path.split(".")
    model: Any = Settings
    for name in parents:
        field = getattr(model, "model_fields", {}).get(name)
        model = field.annotation if field is not None else None
    known = getattr(model, "model_fields", None)
    return f"; there are {', '.join(sorted(known))}" if known else ""
