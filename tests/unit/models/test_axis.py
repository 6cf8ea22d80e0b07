"""Axes: channels to values and back, and what they cannot be."""

import numpy as np
import pytest

from models.axis import Axis


def test_offset_and_scale() -> None:
    axis = Axis("Energy", "keV", 2048, offset=-0.2, scale=0.01)
    assert axis.values[0] == -0.2
    assert axis.to_channel(6.4) == pytest.approx(660.0)
    lo, hi = axis.channel_range(6.3, 6.5)
    assert (lo, hi) == (650, 671)
    assert axis.channel_range(6.5, 6.3) == (lo, hi)


@pytest.mark.parametrize("values", [np.linspace(1, 9, 5) ** 2, (np.linspace(1, 9, 5) ** 2)[::-1]])
def test_listed_values_rise_or_fall(values: np.ndarray) -> None:
    axis = Axis("Wavelength", "nm", 5, listed=tuple(values.tolist()))
    lo, hi = axis.channel_range(8.0, 26.0)
    assert sorted(values[lo:hi].tolist()) == [9.0, 25.0]
    assert axis.to_channel(25.0) == pytest.approx(float(np.flatnonzero(values == 25.0)[0]))


def test_ranges_are_clipped_and_may_be_empty() -> None:
    axis = Axis("Energy", "eV", 100, offset=0.0, scale=2.0)
    assert axis.channel_range(-50.0, 1000.0) == (0, 100)
    assert axis.channel_range(500.0, 600.0) == (100, 100)
    assert axis.channel_range(-9.0, -3.0) == (0, 0)
    lo, hi = axis.channel_range(10.5, 11.5)
    assert lo == hi


def test_one_channel() -> None:
    assert Axis("x", "", 1, listed=(3.0,)).to_channel(3.0) == 0.0


@pytest.mark.parametrize(
    ("size", "scale", "listed"),
    [(0, 1.0, None), (3, 0.0, None), (3, float("nan"), None), (3, 1.0, (1.0, 2.0)), (3, 1.0, (1.0, 3.0, 2.0))],
)
def test_impossible_axes(size: int, scale: float, listed: tuple[float, ...] | None) -> None:
    with pytest.raises(ValueError, match="axis"):
        Axis("x", "", size, scale=scale, listed=listed)


def test_peak_width_of_an_x_ray_axis() -> None:
    assert Axis("Energy", "keV", 2048, scale=0.01).peak_width_channels() == pytest.approx(13.0)
    assert Axis("Energy", "eV", 4096, scale=5.0).peak_width_channels() == pytest.approx(26.0)
    assert Axis("Shift", "1/cm", 1000).peak_width_channels() == 5.0
