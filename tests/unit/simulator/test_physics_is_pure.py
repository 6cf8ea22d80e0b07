"""Physics is functions: documented, cited, without a state of their own and without a change to what they are given."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import simulator.physics
from simulator.axis import Axis
from simulator.physics import eds, eels, raman, xps, xrd

MODULES = [
    importlib.import_module(f"simulator.physics.{m.name}") for m in pkgutil.iter_modules(simulator.physics.__path__)
]
UNITS = (
    r"cm|keV|eV|kev|ev|angstrom|degrees|deg|electron|photon|share|fraction|counts|rate|f8|unit|number|1/|keV|beta|v/c"
)


def functions() -> list[tuple[str, Callable[..., Any]]]:
    return [
        (f"{module.__name__}.{name}", f)
        for module in MODULES
        for name, f in inspect.getmembers(module, inspect.isfunction)
        if f.__module__ == module.__name__ and not name.startswith("_")
    ]


@pytest.mark.parametrize(("name", "function"), functions())
def test_every_function_says_what_it_returns_and_in_what_unit(name: str, function: Callable[..., Any]) -> None:
    said = inspect.getdoc(function)
    assert said, name
    assert said.startswith(("Return", "Turn")), name
    hints = inspect.signature(function)
    assert hints.return_annotation is not inspect.Signature.empty
    words = said + " ".join(hints.parameters)
    assert re.search(UNITS, words), name


@pytest.mark.parametrize("module", [m for m in MODULES if m.__name__.split(".")[-1] not in ("shapes", "eds", "raman")])
def test_every_module_of_formulas_cites_its_sources(module: Any) -> None:
    assert re.search(r"\((?:18|19|20)\d\d\)", inspect.getsource(module)), "a publication with its year"


AXES = {
    "eds": Axis.linear("Energy", "keV", 0.0, 10.0, 100),
    "eels": Axis.linear("Energy loss", "eV", 500.0, 800.0, 100),
    "xrd": Axis.linear("Two theta", "deg", 20.0, 80.0, 300),
    "xps": Axis.linear("Binding energy", "eV", 20.0, 50.0, 100),
    "raman": Axis.linear("Raman shift", "1/cm", 900.0, 1100.0, 100),
}
IRON = {"Fe": 0.7, "Cr": 0.3}
FILM = eels.Film(IRON, 7.8, 30.0, 23.0, 11.0, 90.0, [eels.WhiteLine("Fe", "L3", 708.0, 2.0, 9.0)])
CRYSTAL = xrd.Crystal((2.87, 2.87, 2.87), [xrd.Site("Fe")], centring="I")


@pytest.mark.parametrize(
    "spectrum",
    [
        lambda: eds.thin_film_spectrum(IRON, 1e-5, AXES["eds"]),
        lambda: eds.bulk_spectrum(IRON, AXES["eds"]),
        lambda: eels.spectrum(FILM, AXES["eels"]),
        lambda: xrd.pattern(CRYSTAL, AXES["xrd"].values, 1.5406, (0.01, -0.005, 0.01), 0.5),
        lambda: xps.tougaard(xps.core_line(AXES["xps"].values, 31.4, 0.1, 0.5), AXES["xps"].values),
        lambda: raman.band(AXES["raman"].values, 1001.4, 5.0, 4.0),
    ],
    ids=["film", "bulk", "eels", "xrd", "xps", "raman"],
)
def test_the_same_question_has_the_same_answer_and_changes_nothing(spectrum: Callable[[], Any]) -> None:
    before = {name: axis.values.copy() for name, axis in AXES.items()}
    random_before = np.random.get_state(legacy=False)["state"]["key"].copy()
    first = spectrum()
    first_copy = first.copy()
    first[:] = -1.0
    second = spectrum()
    np.testing.assert_array_equal(second, first_copy)
    assert np.all(second >= 0)
    for name, axis in AXES.items():
        np.testing.assert_array_equal(axis.values, before[name])
    assert IRON == {"Fe": 0.7, "Cr": 0.3}
    np.testing.assert_array_equal(np.random.get_state(legacy=False)["state"]["key"], random_before)
