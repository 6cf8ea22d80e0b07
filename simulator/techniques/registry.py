"""Techniques by the name that the wire gives them."""

from __future__ import annotations

from simulator.techniques.base import Technique
from simulator.techniques.eds import Eds

TECHNIQUES: dict[str, Technique] = {t.name: t for t in (Eds(),)}
