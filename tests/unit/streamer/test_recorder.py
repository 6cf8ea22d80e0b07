"""Recordings: whole or cut, kept or deleted, one daemon at a time."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgpack
import numpy as np
import pytest

from streamer.exits import IO_ERROR, UNAVAILABLE, Exit
from streamer.recorder import Recorder
from streamer.state import BOOKS, JOURNAL, StateFolder, look_at, map_file
from streamer.wire.items import Arrived, Item, Tick
from streamer.wire.journal import Closed, Opened, Record, pack_record, read_records

BOOKS_MAP = {"n_sent": 2, "processed": 2, "lost": {}, "exit_status": "success"}


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateFolder]:
    folder = StateFolder(tmp_path / "state")
    yield folder
    folder.close()


def recorder(state: StateFolder, keep: int = 8, max_bytes: int = 1 << 30) -> Recorder:
    return Recorder(state, keep, max_bytes)


def records(folder: Path) -> list[Record]:
    return [record for record, _ in read_records(map_file(folder / JOURNAL))]


def record(recorder: Recorder, series: str, items: list[Item], *, close: bool = True) -> Path:
    recorder.open(series, {"series": series, "opened_ns": 1})
    for item in items:
        recorder.append(item)
    recorder.flush()
    folder = recorder.folder
    assert folder is not None
    if close:
        recorder.close(BOOKS_MAP)[1]()
    return folder


def test_what_is_appended_is_read_back(state: StateFolder) -> None:
    items: list[Item] = [Arrived(1, [b"head", b"", bytes(100_000)], "host"), Tick(2), Arrived(3, [b"x"], "", True)]
    folder = record(recorder(state), "s", items)
    opened, first, *middle, closed = records(folder)
    assert opened == Opened(series="s", opened_ns=1)
    assert isinstance(first, Arrived)
    assert [bytes(p) for p in first.parts] == [b"head", b"", bytes(100_000)]
    assert middle[0] == Tick(2)
    assert closed == Closed(BOOKS_MAP)
    assert json.loads((folder / BOOKS).read_text()) == BOOKS_MAP


def test_counts_are_stored_compressed_and_noise_as_it_is(state: StateFolder) -> None:
    rng = np.random.default_rng(0)
    counts, noise = rng.poisson(0.1, (64, 1024)).astype(np.uint16).tobytes(), rng.bytes(100_000)
    folder = record(recorder(state), "s", [Arrived(1, [b"head", counts, noise])])
    _, arrived, _ = records(folder)
    assert isinstance(arrived, Arrived)
    assert [bytes(p) for p in arrived.parts] == [b"head", counts, noise]
    assert len(noise) < (folder / JOURNAL).stat().st_size < len(noise) + len(counts) // 4


def test_a_recording_from_before_compression_is_read() -> None:
    head, packed, part = pack_record(Arrived(1, [bytes(range(256)) * 10]))
    fields = msgpack.unpackb(packed)
    assert fields.pop("stored") == [2560]
    old = msgpack.packb(fields)
    blank = struct.pack("<4sBxxxIQI", b"SWJ1", head[4], len(old), 2560, 0)
    crc = zlib.crc32(old, zlib.crc32(blank))
    journal = blank[:-4] + struct.pack("<I", crc) + old + bytes(part)
    ((record, end),) = read_records(memoryview(journal))
    assert isinstance(record, Arrived)
    assert bytes(record.parts[0]) == bytes(range(256)) * 10
    assert end == len(journal)


def test_reading_ends_at_a_part_that_cannot_be_decompressed() -> None:
    whole = b"".join(bytes(p) for p in pack_record(Arrived(1, [bytes(10_000)])))
    damaged = whole[:-20] + bytes([255]) * 20
    assert [end for _, end in read_records(memoryview(whole + damaged + whole))] == [len(whole)]


def test_more_buffers_than_one_call_can_take(state: StateFolder) -> None:
    parts = [bytes([k % 256]) * (k % 7) for k in range(5000)]
    folder = record(recorder(state), "s", [Arrived(1, parts)])
    (arrived,) = [r for r in records(folder) if isinstance(r, Arrived)]
    assert [bytes(p) for p in arrived.parts] == parts


def test_nothing_is_recorded_while_no_series_is_open(state: StateFolder) -> None:
    r = recorder(state)
    assert not r.recording
    r.flush()
    r.leave()
    assert state.open_series() == []


def test_an_open_series_is_found_and_continued_after_a_torn_record(state: StateFolder) -> None:
    r = recorder(state)
    folder = record(r, "s", [Tick(1), Tick(2)], close=False)
    r.leave()
    whole = (folder / JOURNAL).stat().st_size
    with (folder / JOURNAL).open("ab") as file:
        file.write(b"SWJ1 half a record")
    (found,) = state.open_series()
    assert (found.folder, found.opened["series"], found.nbytes) == (folder, "s", whole)
    again = recorder(state)
    again.resume(folder, found.nbytes)
    again.append(Tick(3))
    again.close(BOOKS_MAP)[1]()
    assert [type(x).__name__ for x in records(folder)] == ["Opened", "Tick", "Tick", "Tick", "Closed"]
    assert state.open_series() == []


def test_a_closed_journal_without_its_mark_is_marked(state: StateFolder) -> None:
    folder = record(recorder(state), "s", [Tick(1)])
    (folder / BOOKS).unlink()
    assert look_at(folder) is None
    assert json.loads((folder / BOOKS).read_text())["exit_status"] == "success"


def test_an_empty_or_foreign_journal_is_left_alone(state: StateFolder) -> None:
    for name, content in (("empty", b""), ("foreign", b"not ours at all" * 10)):
        (state.path / name).mkdir()
        (state.path / name / JOURNAL).write_bytes(content)
    assert state.open_series() == []
    assert state.retain(1, 1) == []


def test_open_series_come_oldest_first(state: StateFolder) -> None:
    for name, opened_ns in (("b", 20), ("a", 10), ("c", 30)):
        r = recorder(state)
        r.open(name, {"series": name, "opened_ns": opened_ns})
        r.leave()
    assert [s.opened["series"] for s in state.open_series()] == ["a", "b", "c"]


def test_a_name_used_again_gets_a_folder_of_its_own(state: StateFolder) -> None:
    folders = [record(recorder(state), "s", [Tick(k)]) for k in range(3)]
    assert len(set(folders)) == 3
    assert len({f.name.rstrip("-23") for f in folders}) == 1


@pytest.mark.parametrize("series", ["../../etc/passwd", "a/b\\c:d", "", ".", "x" * 5000, "\x00", "Ünï çødé", "\ud800"])
def test_any_name_makes_a_folder_inside_the_state_folder(state: StateFolder, series: str) -> None:
    folder = state.new_folder(series)
    assert folder.parent == state.path
    assert len(folder.name) < 100
    assert folder.name.isascii()


def test_names_that_look_alike_have_different_folders(state: StateFolder) -> None:
    assert state.new_folder("a/b") != state.new_folder("a_b")


def test_the_newest_closed_series_are_kept_and_open_ones_always(state: StateFolder) -> None:
    folders = []
    for k in range(5):
        folder = record(recorder(state), f"s{k}", [Tick(k)], close=k != 0)
        if k:
            os.utime(folder / BOOKS, ns=(k, k))
        folders.append(folder)
    assert sorted(state.retain(2, 1 << 30)) == sorted(folders[1:3])
    assert [f.exists() for f in folders] == [True, False, False, True, True]


def test_closed_series_are_kept_up_to_a_number_of_bytes(state: StateFolder) -> None:
    folders = []
    for k in range(4):
        folder = record(recorder(state), f"s{k}", [Arrived(k, [np.random.default_rng(k).bytes(10_000)])])
        os.utime(folder / BOOKS, ns=(k, k))
        folders.append(folder)
    assert sorted(state.retain(100, 25_000)) == sorted(folders[:2])
    assert state.retain(100, 1) == [folders[2]], "the newest stays whatever its size"


def test_a_closed_series_makes_room(state: StateFolder) -> None:
    for k in range(4):
        record(recorder(state, keep=2), f"s{k}", [Tick(k)])
    assert len(list(state.path.glob(f"*/{BOOKS}"))) == 2


def test_a_second_daemon_is_refused_with_the_pid_of_the_first(state: StateFolder) -> None:
    with pytest.raises(Exit) as refused:
        StateFolder(state.path)
    assert refused.value.code == UNAVAILABLE
    assert str(os.getpid()) in refused.value.text
    state.close()
    StateFolder(state.path).close()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Exit) as refused:
        StateFolder(tmp_path / "file" / "state")
    assert refused.value.code == UNAVAILABLE
    assert "state.dir" in refused.value.text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_ends_the_daemon_with_a_sentence(state: StateFolder) -> None:
    r = recorder(state)
    folder = record(r, "s", [Tick(1)], close=False)
    r.leave()
    (folder / JOURNAL).unlink()
    (folder / JOURNAL).symlink_to("/dev/full")
    again = recorder(state)
    again.folder = folder
    again._file = os.open(folder / JOURNAL, os.O_WRONLY)
    again.append(Tick(2))
    with pytest.raises(Exit) as failed:
        again.flush()
    assert failed.value.code == IO_ERROR
    assert "No space left" in failed.value.text
    assert "state.dir" in failed.value.text
