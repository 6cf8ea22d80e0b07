"""Techniques by the name that the wire gives them."""

from __future__ import annotations

from simulator.techniques.base import Technique
from simulator.techniques.eds import Eds
from simulator.techniques.eels import Eels
from simulator.techniques.raman import Raman
from simulator.techniques.xps import Xps
from simulator.techniques.xrd import Xrd

_ALL: tuple[Technique, ...] = (Eds(), Eels(), Xrd(), Xps(), Raman())
TECHNIQUES: dict[str, Technique] = {t.name: t for t in _ALL}
