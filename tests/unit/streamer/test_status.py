"""What the status of a series says of its model."""

from streamer.config import PipelineConfig
from streamer.pipeline import Pipeline
from tests.unit.streamer.scene import Scene, run


def test_ranks_and_error_are_published_beside_the_edge() -> None:
    pipeline, _ = run(Scene())
    status = pipeline.status()
    assert status["ranks"].keys() == {"edge", "elbow", "variance_95", "parallel"}
    assert status["ranks"]["edge"] == status["ranks"]["parallel"] == 3
    error = status["live_error"]
    assert 0 < error["share_of_raw"] < 0.2
    assert len(error["by_scores"]) == status["ranks"]["edge"] + 1


def test_before_any_data_there_is_no_error() -> None:
    pipeline = Pipeline(PipelineConfig())
    pipeline.feed(next(iter(Scene().items())))
    assert pipeline.status()["live_error"] is None
    assert pipeline.status()["ranks"] == {}
