"""A recording gives its decisions again, and with other settings those that would have been made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from streamer.cli import app
from streamer.closing import Portrait
from streamer.config import PipelineConfig
from streamer.config_decisions import DecisionConfig
from streamer.events import Notify, Publish
from streamer.pipeline import Pipeline
from streamer.replay_decisions import decisions_of, differences
from streamer.wire.items import Answer, Change, Item
from streamer.wire.journal import Opened, pack_record
from tests.unit.streamer.scene import Scene


def recorded(folder: Path) -> list[Any]:
    """Record a scan with a controller that answers, and an operator who changes a setting."""
    config = PipelineConfig(decisions=DecisionConfig(stop_relative_error=0.1))
    pipeline, portrait, items = Pipeline(config), Portrait(), list[Item]()
    opened = Opened({"series": "scene", "opened_ns": 0, "settings": config.model_dump(mode="json")})
    todo = list(Scene(passes=8).items(actions=["stop", "dwell"], idle=20))
    todo.insert(
        len(todo) // 2, Change(todo[len(todo) // 2].t_ns, "settings", {"decisions": {"stop_relative_error": 0.3}})
    )
    while todo:
        item = todo.pop(0)
        items.append(item)
        for event in pipeline.feed(item):
            if isinstance(event, Publish):
                portrait.see(event.result)
            elif isinstance(event, Notify):
                answer = Answer(item.t_ns + 1, event.control.params["decision"], ok=False, error="busy")
                todo.insert(0, answer)
    portrait.write(folder, {}, {})
    journal = b"".join(bytes(p) for record in [opened, *items] for p in pack_record(record))
    (folder / "journal.swj").write_bytes(journal)
    return [dict(d) for d in portrait.decisions]


def test_the_same_decisions_come_out_and_other_settings_give_others(tmp_path: Path) -> None:
    published = recorded(tmp_path)
    actions = {d["action"] for d in published if "action" in d}
    assert actions == {"stop", "dwell"}
    found = list(decisions_of(tmp_path / "journal.swj"))
    assert found == published
    assert differences(tmp_path, found) is None
    assert (
        differences(tmp_path, [{**found[0], "reason": "another"}, *found[1:]])
        == "message 0 (scene/0) differs in reason"
    )
    runner = CliRunner()
    shown = runner.invoke(app, ["replay-decisions", str(tmp_path)])
    assert shown.exit_code == 0
    assert "the same as when the scan ran" in shown.output
    assert "  dwell (advise, model" in shown.output
    settings = tmp_path / "other.toml"
    settings.write_text("[pipeline.decisions]\nstop_misclassified_area = 0.00001\nmode = 'enforce'\n")
    other = runner.invoke(app, ["replay-decisions", str(tmp_path), "--config", str(settings)])
    assert other.exit_code == 0
    assert "(enforce" in other.output
    assert " stop (" not in other.output
    assert "refused" not in other.output
    settings.write_text("[pipeline.decisions]\nstop_relative_error = 0.001\n")
    never = runner.invoke(app, ["replay-decisions", str(tmp_path), "--config", str(settings)])
    assert "no stop: relative_error was 0." in never.output
    assert "no stop: " not in shown.output


def test_what_is_no_recording_is_said(tmp_path: Path) -> None:
    (tmp_path / "journal.swj").write_bytes(b"nothing")
    for path in (tmp_path, tmp_path / "absent"):
        shown = CliRunner().invoke(app, ["replay-decisions", str(path)])
        assert shown.exit_code == 1
        assert "replay-decisions:" in shown.output
