"""A specimen that changes while it is scanned, from the configuration to what is told."""

from streamer.config import PipelineConfig
from streamer.events import Log
from tests.unit.streamer.scene import Scene, results, run

TOLD = "the specimen has changed: the model starts anew, and positions when they are next visited"


def test_a_change_of_the_specimen_is_told_and_the_books_stay() -> None:
    scene = Scene(nav_shape=(32, 32), passes=3, mean_counts=400.0)
    scene.counts[1:] = scene.counts[1:, :, ::-1]
    for watch, told in ((True, [TOLD]), (False, [])):
        config = PipelineConfig.model_validate({"linear": {"reset_on_change": watch}})
        pipeline, events = run(scene, config)
        assert [e.text for e in events if isinstance(e, Log) and e.kind == "change"] == told
        assert pipeline.status()["changes"] == len(told)
        end = results(events, "series")[-1].head
        assert end["n_sent"] == end["processed"] == scene.n_sent
