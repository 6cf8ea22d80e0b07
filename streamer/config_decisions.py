"""What is asked of a scan, and within which bounds it may be steered."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from models.stopping import Targets
from streamer.config_section import Fraction, PositiveFloat, Section


class DecisionConfig(Section):
    """When the scan has what was asked for, and where it goes on until then."""

    mode: Literal["advise", "enforce"] = Field(
        "advise", description="advise tells the operator, enforce asks the controller to act"
    )
    stop_coverage: Fraction = Field(
        1.0, description="part of the planned positions that must have been measured before a stop"
    )
    stop_misclassified_area: Fraction = Field(
        0.01, description="part of the area that the finished phase map may call by a wrong phase"
    )
    stop_map_error: PositiveFloat = Field(
        0.1, description="relative error that each map of pipeline.windows may have, as a whole"
    )
    stop_relative_error: PositiveFloat = Field(
        0.2, description="target for the median relative error of a denoised spectrum"
    )
    stop_unseen_area: Fraction = Field(
        0.01, description="part of the area that the smallest phase has that must not be missed"
    )
    stop_object_px: Annotated[float, Field(ge=1)] = Field(
        5.0, description="positions that the smallest object has that must not be missed"
    )
    stop_angle_deg: PositiveFloat = Field(
        5.0, description="angle to the model of half of the dose, degrees, over two checks"
    )
    stop_error_slope: PositiveFloat = Field(
        0.01, description="change of the relative error of spectra in a pass from which on another brings nothing"
    )
    stop_risk: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.05, description="probability that a finished map may miss its targets"
    )
    stop_time_s: PositiveFloat | None = Field(None, description="dwell of the whole scan after which it is to stop")
    stop_dose_s: PositiveFloat | None = Field(
        None, description="mean dwell of a position after which the scan is to stop"
    )
    stop_loss: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.05, description="part of a phase that may be lost to beam damage"
    )
    dwell_shortest: PositiveFloat = Field(
        0.25, description="shortest dwell of a position in a pass, in planned dwells; less is left out"
    )
    dwell_longest: PositiveFloat = Field(
        4.0, description="longest dwell of a position in a pass or visit, in planned dwells"
    )
    dwell_by: Literal["position", "line", "tile"] = Field(
        "position", description="what can have a dwell of its own: tiles are for controllers that scan rectangles"
    )
    tile_px: Annotated[int, Field(ge=1)] = Field(8, description="side of a tile, in positions")
    lead_s: PositiveFloat = Field(
        0.1, description="how long before the end of a pass the next is decided on: reaching the controller takes time"
    )
    valid_s: PositiveFloat = Field(10.0, description="how long a decision stays valid where the header does not say")

    @model_validator(mode="after")
    def _dwells_are_a_range(self) -> Self:
        if self.dwell_longest < self.dwell_shortest:
            raise ValueError(f"dwell_longest: {self.dwell_longest:g} is less than dwell_shortest")
        return self

    def targets(self) -> Targets:
        """Return what is asked for as the models take it."""
        return Targets(
            misclassified_area=self.stop_misclassified_area,
            error_slope=self.stop_error_slope,
            angle_deg=self.stop_angle_deg,
            relative_error=self.stop_map_error,
            unseen_area=self.stop_unseen_area,
            risk=self.stop_risk,
        )


class DriftSection(Section):
    """Drift of the spectral axis, of counted spectra without preprocessing."""

    enabled: bool = Field(True, description="look for drift of the spectral axis")
    correct: bool = Field(True, description="put spectra back to where they belong, from when drift was found on")
