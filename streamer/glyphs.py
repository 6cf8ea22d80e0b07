"""Pictures made of characters: a map in half blocks, a sparkline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.style import Style
from rich.text import Text

_BARS: Final = "▁▂▃▄▅▆▇█"
# Ten of viridis' colours (CC0); between them is interpolated. matplotlib is no part of what a viewer needs.
_VIRIDIS: Final = np.array(
    [(68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142), (31, 158, 137), (53, 183, 121),
     (109, 205, 89), (180, 222, 44), (253, 231, 37)]
)  # fmt: skip
_UNMEASURED: Final = (70, 70, 70)
_SPREAD: Final = (1.0, 99.0)
_STRIP_ROWS: Final = 4


def sparkline(values: Sequence[float], width: int) -> str:
    """Return the last `width` values as bars from zero to their largest."""
    shown = list(values)[-width:]
    top = max(shown, default=0.0)
    if top <= 0:
        return _BARS[0] * len(shown)
    return "".join(_BARS[min(int(v / top * len(_BARS)), len(_BARS) - 1)] for v in shown)


def as_plane(values: NDArray[Any]) -> NDArray[Any]:
    """Return a map as (rows, columns): a line as a strip, of a volume the last slice with anything in it."""
    if values.ndim == 1:
        return np.repeat(values[None, :], _STRIP_ROWS, axis=0)
    if values.ndim == 2:
        return values
    measured = np.flatnonzero(np.isfinite(values).any(axis=(1, 2)))
    return np.asarray(values[measured[-1] if measured.size else 0])


def fit(values: NDArray[Any], rows: int, columns: int) -> NDArray[np.float64]:
    """Resize a plane to at most (rows, columns) without changing its proportions.

    Larger planes are averaged over what falls together (NaN left out), smaller ones repeated a whole number of
    times. Of whole numbers, which are names, one is taken, and negative ones are none.
    """
    ny, nx = values.shape
    if values.dtype.kind == "i":
        skip = max(1, -(-ny // rows), -(-nx // columns))
        values = np.where(values < 0, np.nan, values)[skip // 2 :: skip, skip // 2 :: skip]
        ny, nx = values.shape
    grow = min(rows // ny, columns // nx)
    if grow >= 1:
        return np.repeat(np.repeat(values, grow, axis=0), grow, axis=1).astype(float)
    shrink = max(ny / rows, nx / columns)
    new_y, new_x = max(1, int(ny / shrink)), max(1, int(nx / shrink))
    row = np.minimum(np.arange(ny) * new_y // ny, new_y - 1)
    column = np.minimum(np.arange(nx) * new_x // nx, new_x - 1)
    cell = (row[:, None] * new_x + column).ravel()
    flat = values.ravel().astype(float)
    seen = np.isfinite(flat)
    n = np.bincount(cell[seen], minlength=new_y * new_x)
    total = np.bincount(cell[seen], weights=flat[seen], minlength=new_y * new_x)
    mean = np.divide(total, n, out=np.full(new_y * new_x, np.nan), where=n > 0)
    return np.asarray(mean.reshape(new_y, new_x))


def _strip(plane: NDArray[Any], columns: int) -> NDArray[np.float64]:
    """Shorten a strip to `columns`; its height is no length, and stays."""
    return np.repeat(fit(plane[:1], 1, columns)[:1], len(plane), axis=0)


def colours(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return u1[..., 3]: viridis over all but the most extreme values, grey where NaN."""
    seen = np.isfinite(values)
    if not seen.any():
        return np.broadcast_to(np.array(_UNMEASURED, np.uint8), (*values.shape, 3)).copy()
    lo, hi = np.percentile(values[seen], _SPREAD)
    place = np.clip((np.where(seen, values, lo) - lo) / max(hi - lo, 1e-12), 0, 1) * (len(_VIRIDIS) - 1)
    stops = np.arange(len(_VIRIDIS))
    rgb = np.stack([np.interp(place, stops, _VIRIDIS[:, i]) for i in range(3)], axis=-1).astype(np.uint8)
    rgb[~seen] = _UNMEASURED
    return rgb


def half_blocks(values: NDArray[Any], rows: int, columns: int) -> Text:
    """Draw a map in at most `rows` lines of `columns` characters, two positions to a character.

    Parameters
    ----------
    values : array over nav_shape
        NaN is grey.
    rows, columns : int
        Room for it.
    """
    plane = as_plane(values)
    rgb = colours(fit(plane, 2 * rows, columns) if values.ndim > 1 else _strip(plane, columns))
    text = Text(no_wrap=True, end="")
    for y in range(0, rgb.shape[0], 2):
        # Below an odd last line there is nothing: the terminal's own background.
        below = rgb[y + 1].tolist() if y + 1 < rgb.shape[0] else [None] * rgb.shape[1]
        for upper, lower in zip(rgb[y].tolist(), below, strict=True):
            background = None if lower is None else Color.from_rgb(*lower)
            text.append("▀", Style(color=Color.from_rgb(*upper), bgcolor=background))
        if y + 2 < rgb.shape[0]:
            text.append("\n")
    return text
