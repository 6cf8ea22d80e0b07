"""Libraries as people write them, and the phases that are told, or not, by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse

from models.classify import NONE, Classifier, deviance_moments, gamma_tail
from models.library import Library, Reference, read_library
from models.mixture import poisson_deviance
from models.noise import NoiseModel
from simulator.sample import Specimen, load_specimen

FWHM_CHANNELS = 6.5


def library_of(
    specimen: Specimen, *, without: tuple[str, ...] = (), worth: float | None = None, seed: int = 0
) -> Library:
    """References as computed, or as measured with so many counts each."""
    rng, references = np.random.default_rng(seed), []
    for name, endmember in zip(specimen.phases, specimen.endmembers, strict=True):
        if name not in without:
            values = endmember / endmember.sum()
            measured = values if worth is None else rng.poisson(worth * values).astype(np.float64)
            counts = 1e6 if worth is None else float(measured.sum())
            references.append(Reference(name, "spectrum", specimen.axis.values, measured, counts))
    return Library("made up", specimen.technique, specimen.axis.units, tuple(references))


def pure(specimen: Specimen) -> NDArray[np.float64]:
    return np.asarray(specimen.endmembers / specimen.endmembers.sum(axis=1, keepdims=True))


def classifier(specimen: Specimen, **how: object) -> Classifier:
    library = library_of(specimen, **how)  # type: ignore[arg-type]
    return Classifier(library, specimen.axis.values, specimen.axis.units, FWHM_CHANNELS)


def write(folder: Path, head: str, **files: str) -> Path:
    (folder / "library.toml").write_text(head)
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


HEAD = 'technique = "eds"\nunits = "keV"\n[[references]]\nname = "a"\nspectrum = "a.csv"\n'
ROWS = "# energy, counts\n" + "".join(f"{0.01 * i},{i % 7}\n" for i in range(20))


def test_a_library_is_read_and_survives_as_plain_numbers(tmp_path: Path) -> None:
    head = HEAD + 'counts = 500\n[[references]]\nname = "b"\nspectrum = "b.csv"\n'
    read = read_library(write(tmp_path, head, a=ROWS, b=ROWS))
    assert read.names == ("a", "b")
    assert read.references[0].counts == 500
    assert read.references[1].counts == sum(i % 7 for i in range(20))
    again = Library.from_map(read.to_map())
    assert again.to_map() == read.to_map()
    np.testing.assert_array_equal(again.references[1].values, 0.01 * np.arange(20))
    assert read_library(tmp_path / "library.toml").to_map() == read.to_map()


@pytest.mark.parametrize(
    ("head", "rows", "said"),
    [
        (HEAD.replace("eds", "sem"), ROWS, "technique 'sem' is none of"),
        (HEAD.replace("units", "unit"), ROWS, "no such key 'unit'"),
        ("wavelength_a = true\n" + HEAD, ROWS, "wavelength_a = True: a float is wanted"),
        (HEAD.replace("a.csv", "b.csv"), ROWS, "b.csv cannot be read"),
        (HEAD.replace("spectrum", "spectra"), ROWS, "no such key 'spectra'"),
        (HEAD.replace("spectrum", "lines"), ROWS.replace("0.0,", "1.5,", 1), "lines need technique 'xrd'"),
        (HEAD, "1,2,3\n", "needs two columns"),
        (HEAD, "1,2\nx,3\n", "cannot be read"),
        (HEAD, ROWS.replace("0.05,5", "0.05,-5"), "must not be negative"),
        (HEAD, ROWS + "0.05,1\n", "the same first column"),
        (HEAD, "1,2\n", "at least 8 rows"),
        (HEAD, ROWS.replace("0.05,5", "0.05,nan"), "finite"),
        (HEAD + "counts = -1\n", ROWS, "positive number"),
        ('technique = "eds"\nunits = "keV"\n', ROWS, "'references' is missing"),
        ("technique = [\n", ROWS, "is no TOML"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, head: str, rows: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"library .*library\.toml") as error:
        read_library(write(tmp_path, head, a=rows))
    assert said in str(error.value)


def test_a_missing_library_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_library(tmp_path / "nothing.toml")


def test_references_are_brought_to_another_axis_with_their_counts(tmp_path: Path) -> None:
    specimen = load_specimen("exercise", shape=(8, 8))
    library = library_of(specimen)
    ev = -200.0 + 40.0 * np.arange(512, dtype=np.float64)
    coarse = library.on_axis(ev, "eV")
    np.testing.assert_allclose(coarse.sum(axis=1), 1.0, rtol=1e-3)
    np.testing.assert_allclose(coarse[:, ::-1], library.on_axis(ev[::-1], "eV"))
    with pytest.raises(ValueError, match="the library is in keV, the scan in deg"):
        library.on_axis(ev, "deg")
    with pytest.raises(ValueError, match="the reference goes from"):
        library.on_axis(10 * ev, "eV")


@pytest.mark.parametrize("worth", [None, 3000.0], ids=["computed references", "references of 3000 counts"])
@pytest.mark.parametrize(("name", "counts"), [("exercise", 5), ("fe_cr_ni", 20), ("polymer_blend", 5)])
def test_probabilities_are_calibrated(name: str, counts: int, worth: float | None) -> None:
    """Of the spectra named with 80 %, so many are right; with noisy references nearly."""
    specimen = load_specimen(name, shape=(8, 8))
    truth = np.repeat(np.arange(len(specimen.phases)), 1500)
    spectra = np.random.default_rng(7).poisson(counts * pure(specimen)[truth])
    found = classifier(specimen, worth=worth).classify(spectra).probabilities
    best, right = found.max(axis=1), found.argmax(axis=1) == truth
    for low, high in ((0.5, 0.7), (0.7, 0.9), (0.9, 1.0)):
        some = (best >= low) & (best < high)
        if some.sum() > 100:
            slack = 3 * np.sqrt(0.25 / some.sum()) + (0.03 if worth is None else 0.1)
            assert abs(right[some].mean() - best[some].mean()) < slack, (low, right[some].mean(), best[some].mean())


@pytest.mark.parametrize("counts", [20, 100, 1000, 10000])
def test_known_phases_are_rarely_of_none_and_an_unknown_one_is(counts: int) -> None:
    specimen = load_specimen("exercise", shape=(8, 8))
    rng = np.random.default_rng(3)
    known = rng.poisson(counts * pure(specimen)[np.repeat([0, 1, 2], 2000)])
    told = classifier(specimen, without=("unknown",))
    found = told.classify(known)
    assert (found.labels == NONE).mean() < 2.5e-3
    assert not found.mixed.any() or found.mixed.mean() < 2.5e-3
    strange = told.classify(rng.poisson(counts * np.repeat(pure(specimen)[3:], 300, axis=0)))
    assert (strange.labels == NONE).mean() > (0.8 if counts < 50 else 0.999)


def test_a_mixture_of_known_phases_is_not_of_none() -> None:
    specimen = load_specimen("exercise", shape=(8, 8))
    spectra = np.random.default_rng(5).poisson(
        2000 * np.repeat((0.7 * pure(specimen)[:1] + 0.3 * pure(specimen)[1:2]), 200, 0)
    )
    found = classifier(specimen).classify(spectra)
    assert found.mixed.mean() > 0.98
    assert (found.labels == 0).mean() > 0.98
    np.testing.assert_allclose(found.probabilities[found.mixed].mean(axis=0)[:2], [0.7, 0.3], atol=0.02)


def test_list_mode_cameras_and_several_spectra_of_a_phase() -> None:
    specimen = load_specimen("exercise", shape=(8, 8))
    spectra = np.random.default_rng(6).poisson(60 * pure(specimen)[np.repeat([0, 1, 2], 40)])
    told = classifier(specimen)
    dense, listed = told.classify(spectra), told.classify(sparse.csr_array(spectra))
    np.testing.assert_array_equal(dense.probabilities, listed.probabilities)
    camera = NoiseModel("poisson_gaussian", gain=20.0, offset=50.0, read_sigma=10.0)
    noisy = 20.0 * spectra + 50.0 + np.random.default_rng(8).normal(0, 10, spectra.shape)
    seen = told.classify(noisy, camera)
    assert (seen.probabilities.argmax(axis=1) == dense.labels).mean() > 0.97
    assert (seen.labels == NONE).mean() < 0.02
    twice = library_of(specimen)
    doubled = Library("x", "eds", "keV", twice.references + twice.references[:1])
    again = Classifier(doubled, specimen.axis.values, "keV", FWHM_CHANNELS).classify(spectra)
    np.testing.assert_allclose(again.probabilities, dense.probabilities, atol=1e-9)
    assert told.classify(spectra[:0]).labels.shape == (0,)


def test_moments_of_the_deviance_are_those_of_poisson_draws() -> None:
    rng = np.random.default_rng(9)
    for mean in (0.02, 0.5, 3.0, 200.0):
        drawn = poisson_deviance(rng.poisson(mean, 400_000).astype(np.float64), np.full(400_000, mean))
        first, second = deviance_moments(np.array([mean]))
        assert drawn.mean() == pytest.approx(first[0], rel=0.02)
        assert drawn.var() == pytest.approx(second[0], rel=0.06)
    assert gamma_tail(np.array([3.84]), np.array([1.0]), np.array([2.0]))[0] == pytest.approx(0.05, abs=1e-3)
