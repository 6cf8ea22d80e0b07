"""What the pipeline can be told; the daemon's settings contain it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from models.library import Library, read_library
from models.linear_config import LinearConfig
from models.phase_growth import PhaseLimits
from models.steps import StepsConfig
from streamer.config_decisions import DecisionConfig, DriftSection
from streamer.config_section import FiniteFloat, PositiveFloat, Section
from streamer.wire import Limits, Stins, ThicknessMap


class StinsConfig(Section):
    """For plain STINS senders: what their header messages do not say (protocol.md, 1.4)."""

    nav_shape: list[Annotated[int, Field(ge=1)]] | None = Field(None, description="shape of the scan, e.g. [64, 64]")
    axis: dict[str, Any] | None = Field(None, description="axis map: name, units, size, offset, scale (or values)")
    technique: Literal["eds", "eels", "xrd", "xps", "raman", "other"] | None = Field(None, description="technique")
    dwell_s: PositiveFloat | None = Field(None, description="planned dwell per position and pass, seconds")
    leading: Literal["spectra", "sum", "take"] = Field(
        "spectra",
        description="meaning of the leading axis of shape; detector elements are summed or one is taken",
    )
    element: Annotated[int, Field(ge=0)] = Field(0, description="detector element taken with leading = take")

    def stins(self) -> Stins:
        """Return it as the decoder takes it."""
        keys = ("nav_shape", "axis", "technique", "dwell_s")
        defaults = {k: getattr(self, k) for k in keys if getattr(self, k) is not None}
        return Stins(defaults, self.leading, self.element)


class LimitsConfig(Section):
    """What is refused whatever a header says."""

    message_mib: Annotated[int, Field(ge=1)] = Field(256, description="largest message, MiB")
    positions: Annotated[int, Field(ge=1)] = Field(1 << 24, description="most positions of a scan")
    channels: Annotated[int, Field(ge=1)] = Field(1 << 16, description="most channels of a spectrum")
    held_mib: Annotated[int, Field(ge=1)] = Field(
        64, description="messages of an unknown series held until its header comes, MiB"
    )

    def limits(self) -> Limits:
        """Return it as the decoder takes it."""
        return Limits(self.message_mib << 20, self.positions, self.channels)


class LinearSection(Section):
    """The streaming linear model."""

    max_rank: Annotated[int, Field(ge=1, le=128)] = Field(24, description="most components kept")
    batch: Annotated[int, Field(ge=1)] = Field(
        1024, description="spectra in one update of the model where there is no idle time"
    )
    min_batch: Annotated[int, Field(ge=1)] = Field(
        64, description="spectra that wait before idle time is used for an update of the model"
    )
    forget: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="what the model has learnt counts this much at each new pass; 1 forgets nothing"
    )
    reset_on_change: bool = Field(
        False, description="start anew when positions that are visited again no longer look as they did"
    )
    store_mib: Annotated[int, Field(ge=1)] = Field(4096, description="memory for stored counts, MiB")


class AnomalySection(Section):
    """What counts as an anomaly."""

    false_alarm: Annotated[float, Field(gt=0, le=0.1)] = Field(
        LinearConfig().false_alarm, description="share of ordinary spectra that may be flagged by chance"
    )
    false_discovery: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="share of false alarms among the positions flagged at the end of a pass"
    )
    minor_phase: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.05, description="phases at no more than this share of the positions are proposed like anomalies; 0: none"
    )
    accept: bool = Field(False, description="accept groups that are proposed as phases without being asked")


class StepsSection(Section):
    """What is done to spectra of this technique before the model sees them; raw counts are kept as they came."""

    crop: tuple[float, float] | None = Field(None, description="range of the axis that is modelled, in axis units")
    rebin: Annotated[int, Field(ge=1)] = Field(1, description="neighbouring channels that are summed into one")
    dead_channels: list[Annotated[int, Field(ge=0)]] = Field([], description="channels that count wrongly")
    align: FiniteFloat | None = Field(
        None, description="where a peak belongs, in axis units (0 for the zero loss); spectra are shifted to it"
    )
    align_within: PositiveFloat = Field(10.0, description="largest shift that is looked for, in axis units")
    dark: FiniteFloat | list[FiniteFloat] = Field(
        0.0, description="counts of a visit without signal: one number, or a list with one for each channel"
    )
    background: Literal["none", "power_law", "asls", "arpls", "snip"] = Field(
        "none", description="background that is subtracted from each spectrum"
    )
    background_at: Literal["result", "model"] = Field(
        "result", description="subtract it from denoised spectra (net maps), which costs no precision, or before"
    )
    background_window: tuple[float, float] | None = Field(
        None, description="range before an edge where power_law is fitted, in axis units"
    )
    stiffness: PositiveFloat = Field(1e5, description="of asls and arpls: penalty of curvature (lam)")
    half_window: Annotated[int, Field(ge=1)] = Field(
        20, description="of snip: half the width of the widest peak, in channels"
    )
    normalise: Literal["none", "total", "peak", "snv", "minmax"] = Field(
        "none", description="scale of each spectrum (or channel: minmax)"
    )

    @model_validator(mode="after")
    def _ranges_are_ranges(self) -> Self:
        for name in ("crop", "background_window"):
            given = getattr(self, name)
            if given is not None and not given[0] < given[1]:
                raise ValueError(f"{name}: {given[0]} to {given[1]} is empty; give [lo, hi] in axis units")
        if self.background == "power_law" and self.background_window is None:
            raise ValueError("background: power_law needs background_window, the range before the edge")
        return self

    def steps(self) -> StepsConfig:
        """Return it as the engine takes it."""
        given = self.model_dump()
        dark = given["dark"] if isinstance(given["dark"], list) else [given["dark"]]
        return StepsConfig(**{**given, "dead_channels": tuple(given["dead_channels"]), "dark": tuple(dark)})


class StepsByTechnique(Section):
    """Preprocessing, by the technique that a header names; nothing is done unless it is asked for."""

    eds: StepsSection = StepsSection(align_within=0.2)
    eels: StepsSection = StepsSection(align_within=10.0)
    xrd: StepsSection = StepsSection(align_within=1.0)
    xps: StepsSection = StepsSection(align_within=5.0)
    raman: StepsSection = StepsSection(align_within=20.0)
    other: StepsSection = StepsSection()

    def of(self, technique: str) -> StepsConfig:
        """Return the steps for a technique."""
        section: StepsSection = getattr(self, technique)
        return section.steps()


def _library(given: Any) -> Any:
    """Read a library that is given by its path; one of a recording is given whole, so that its files may change."""
    if isinstance(given, str | Path):
        return read_library(Path(given))
    return Library.from_map(given) if isinstance(given, Mapping) else given


LibraryFile = Annotated[
    Library,
    BeforeValidator(_library),
    PlainSerializer(lambda library: library.to_map(), return_type=dict[str, Any]),
]


class PhaseSection(Section):
    """Phases: which positions are alike. Worked on only while nothing else waits."""

    enabled: bool = Field(True, description="find phases, and map them")
    least: Annotated[int, Field(ge=2)] = Field(PhaseLimits().least, description="positions that make a phase, at least")
    most: Annotated[int, Field(ge=1, le=32)] = Field(PhaseLimits().most, description="phases, at most")

    def limits(self) -> PhaseLimits:
        """Return it as the models take it."""
        return PhaseLimits(self.least, self.most)


class UnmixingSection(Section):
    """How much of each end-member a position is; needs phases. Worked on only while nothing else waits."""

    enabled: bool = Field(True, description="find end-members, and map their abundances")
    thickness: ThicknessMap | None = Field(
        None,
        description="what thickness does to spectra, corrected for at the end where they tell of it (a series' own "
        'header first): {model = "absorption", absorber = {Ni = 0.7, Al = 0.3}, take_off_deg = 20} or '
        '{model = "plural_scattering", plasmon_ev = 23, plasmon_width_ev = 12}',
    )


class PipelineConfig(Section):
    """Everything that the pure part of the daemon can be told."""

    series_timeout_s: PositiveFloat = Field(300.0, description="silence after which a series is closed, seconds")
    replay_hosts: list[str] = Field([], description="hosts other than the source's whose replay service may be asked")
    promote_s: PositiveFloat = Field(0.25, description="least time between two published model versions, seconds")
    windows: dict[str, tuple[float, float]] = Field(
        {}, description="energy windows mapped as window/<label> and raw/<label>, in axis units"
    )
    library: LibraryFile | None = Field(
        None, description="library.toml (or its folder) of known phases, by which positions are named at the end"
    )
    stins: StinsConfig = StinsConfig()
    limits: LimitsConfig = LimitsConfig()
    decisions: DecisionConfig = DecisionConfig()
    drift: DriftSection = DriftSection()
    linear: LinearSection = LinearSection()
    anomaly: AnomalySection = AnomalySection()
    steps: StepsByTechnique = StepsByTechnique()
    phases: PhaseSection = PhaseSection()
    unmixing: UnmixingSection = UnmixingSection()

    def engine(self) -> LinearConfig:
        """Return what the linear engine takes."""
        return LinearConfig(
            max_rank=self.linear.max_rank,
            batch=self.linear.batch,
            min_batch=self.linear.min_batch,
            forget=self.linear.forget,
            reset_on_change=self.linear.reset_on_change,
            store_limit_bytes=self.linear.store_mib << 20,
            false_alarm=self.anomaly.false_alarm,
        )

    @model_validator(mode="after")
    def _windows_are_ranges(self) -> Self:
        for label, (lo, hi) in self.windows.items():
            if not lo < hi:
                raise ValueError(f"windows.{label}: {lo} to {hi} is empty; give [lo, hi] in axis units")
        return self
