"""A library in the daemon: positions named at the end, the library kept in the recording, anomalies in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from simulator.references import write_library
from simulator.sample import Specimen, load_specimen
from streamer import views
from streamer.config import PipelineConfig
from streamer.events import Event, Log, Publish
from streamer.example import as_toml
from streamer.pipeline import Pipeline
from streamer.settings import load
from streamer.wire import encode_header, encode_image, encode_series_end
from streamer.wire.items import Arrived, Tick

SECOND_NS = 1_000_000_000
SHAPE = (12, 12)


def scanned(
    specimen: Specimen, counts: float, config: PipelineConfig, gold_at: int | None = None
) -> tuple[Pipeline, list[Event]]:
    """One pass over a specimen, to the end of the series; perhaps with 60 counts of Au La at a position."""
    pipeline, events, t_ns = Pipeline(config), [], SECOND_NS
    spectra = np.random.default_rng(0).poisson(counts * specimen.expected()).astype(np.uint16)
    if gold_at is not None:
        spectra[gold_at, int(np.argmin(np.abs(specimen.axis.values - 9.704))) - 2 :][:5] += 12
    messages = [
        encode_header(
            "known", list(SHAPE), specimen.axis.to_map(), technique=specimen.technique, noise={"model": "poisson"}
        )
    ]
    messages += [encode_image("known", 1 + k, 48 * k, spectra[48 * k : 48 * k + 48]) for k in range(3)]
    messages.append(encode_series_end("known", 4, len(spectra)))
    for parts in messages:
        t_ns += SECOND_NS
        events += pipeline.feed(Arrived(t_ns, parts))
        events += pipeline.feed(Tick(t_ns))
    return pipeline, [*events, *pipeline.feed(Tick(t_ns + SECOND_NS))]


def maps_of(pipeline: Pipeline) -> dict[str, Any]:
    assert pipeline._current is not None
    return views.map_arrays(pipeline._current)


def configured(name: str, folder: Path) -> PipelineConfig:
    write_library(name, folder)
    return PipelineConfig(library=folder)


def test_positions_are_named_by_a_library_of_spectra(tmp_path: Path) -> None:
    specimen = load_specimen("exercise", shape=SHAPE)
    pipeline, _ = scanned(specimen, 300, configured("exercise", tmp_path))
    names = pipeline.status()["known"]
    assert names == ["ferrite", "nickel alloy", "oxide"]
    maps = maps_of(pipeline)
    known, truth = maps["known"].ravel(), specimen.phase_map().ravel()
    share = specimen._shares().max(axis=1)
    pure = (share > 0.99) & (truth < 3)
    assert (known[pure] == truth[pure]).mean() > 0.98
    rare = specimen.rare_positions()
    assert (known[rare][share[rare] > 0.9] == -1).all()
    assert np.isnan(maps["known_probability"].ravel()[known == -1]).all()


def test_shares_are_mapped_by_a_library_with_an_onset(tmp_path: Path) -> None:
    specimen = load_specimen("fe_oxidation", shape=SHAPE)
    pipeline, _ = scanned(specimen, 60000, configured("fe_oxidation", tmp_path))
    maps, abundances = maps_of(pipeline), specimen.abundances
    oxide = abundances[:, 2] < 1e-3
    truth = (abundances[:, 1] / np.maximum(abundances[:, :2].sum(axis=1), 1e-9))[oxide]
    found = maps["share/Fe3+ oxide"].ravel()[oxide]
    pull = (found - truth) / maps["share_error/Fe3+ oxide"].ravel()[oxide]
    assert np.sqrt(((found - truth) ** 2).mean()) < 0.04
    assert np.sqrt((pull**2).mean()) < 1.3
    assert "known" not in maps


def test_a_library_of_another_technique_is_told_and_harms_nothing(tmp_path: Path) -> None:
    pipeline, events = scanned(load_specimen("exercise", shape=SHAPE), 100, configured("fe_oxidation", tmp_path))
    assert any(isinstance(e, Log) and e.kind == "library" and "of eels, the scan of eds" in e.text for e in events)
    assert pipeline.status()["known"] == []
    assert "counts" in maps_of(pipeline)


def test_the_recording_holds_the_library_itself(tmp_path: Path) -> None:
    config = configured("exercise", tmp_path)
    dumped = json.loads(json.dumps(config.model_dump(mode="json")))
    for file in tmp_path.iterdir():
        file.unlink()
    again = PipelineConfig.model_validate(dumped)
    assert again.library is not None
    assert config.library is not None
    assert again.library.to_map() == config.library.to_map()


def test_the_key_is_a_path_and_a_wrong_one_is_told(tmp_path: Path) -> None:
    write_library("exercise", tmp_path / "steel")
    file = tmp_path / "scanwise.toml"
    file.write_text(f"[pipeline]\nlibrary = {json.dumps(str(tmp_path / 'steel'))}\n")
    settings = load(file)
    assert f"library = {json.dumps(str(tmp_path / 'steel' / 'library.toml'))}" in as_toml(settings)
    with pytest.raises(ValidationError, match="cannot be read"):
        PipelineConfig(library=tmp_path / "nothing")


def test_an_anomaly_says_what_its_window_may_be() -> None:
    _, events = scanned(load_specimen("exercise", shape=SHAPE), 200, PipelineConfig(), gold_at=130)
    heads = [e.result.head for e in events if isinstance(e, Publish) and e.result.topic == "anomaly"]
    found = [head["candidates"] for head in heads if head["index"] == [130]]
    assert found, "of the position itself, and of the group it makes"
    assert all(any(line.startswith("Au La 9.7") for line in candidates) for candidates in found)


def test_diffraction_maps_have_the_shares_of_what_the_whole_scan_has(tmp_path: Path) -> None:
    specimen = load_specimen("steel_phases", shape=SHAPE)
    pipeline, _ = scanned(specimen, 3000, configured("steel_phases", tmp_path))
    maps = maps_of(pipeline)
    ferrite = specimen.phases.index("ferrite")
    shares = specimen._shares()
    pure = (shares[:, ferrite] > 0.98) | (shares[:, ferrite] < 0.02)
    found = maps["share/ferrite"].ravel()
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[pure], np.rint(shares[pure, ferrite]), atol=0.15)
