"""Records on disk and the run folder."""

import json
from dataclasses import replace
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pixeval.errors import InputError
from pixeval.records import Sample, Score, Vote, current_votes, sample_id
from pixeval.runs import Run
from pixeval.tables import read_records, read_table, write_records

SAMPLE = Sample("a1", "base", "cat", "a cat", 3, "g", "images/a1.png", "00")
SCORE = Score("a1", "psnr", 20.5, None, "psnr/1")
VOTE = Vote("v1", "ann", "flaws", "cat", "a cat", "a1", "b1", "base", "new", "left", 2.5, "2026-01-01T00:00:00Z")


def test_records_come_back_as_they_went(tmp_path: Path) -> None:
    odd = replace(SAMPLE, id="b", prompt='"<b>\n\u2603,', prompt_id=None, seed=None)
    write_records(tmp_path / "s.parquet", [SAMPLE, odd], Sample)
    assert read_records(tmp_path / "s.parquet", Sample) == [SAMPLE, odd]
    scores = [Score("a1", "m", None, "no prompt", "f"), Score("a1", "n", 0.5, None, "f")]
    write_records(tmp_path / "c.parquet", scores, Score)
    assert read_records(tmp_path / "c.parquet", Score) == scores


def test_pandas_and_datasets_open_the_tables(tmp_path: Path) -> None:
    write_records(tmp_path / "s.parquet", [SAMPLE], Sample)
    assert pd.read_parquet(tmp_path / "s.parquet").loc[0, "prompt"] == "a cat"
    loaded = datasets.load_dataset("parquet", data_files=str(tmp_path / "s.parquet"), cache_dir=str(tmp_path / "cache"))
    assert loaded["train"][0]["seed"] == 3


def test_equal_records_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_records(tmp_path / name, [SAMPLE], Sample)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_empty_table_and_a_missing_one_hold_nothing(tmp_path: Path) -> None:
    write_records(tmp_path / "s.parquet", [], Sample)
    assert read_records(tmp_path / "s.parquet", Sample) == read_records(tmp_path / "gone.parquet", Sample) == []


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    write_records(tmp_path / "s.parquet", [SAMPLE], Sample)
    data = (tmp_path / "s.parquet").read_bytes()
    (tmp_path / "s.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"s\.parquet cannot be read .* delete it"):
        read_records(tmp_path / "s.parquet", Sample)
    # What no command can make again is not to be deleted.
    for name in ("samples.parquet", "votes/a.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(InputError, match=r"restore it from a copy, or move it away") as error:
            read_records(tmp_path / name, Sample)
        assert "delete" not in str(error.value)


def test_a_table_of_something_else_is_named(tmp_path: Path) -> None:
    write_records(tmp_path / "s.parquet", [SAMPLE], Sample)
    with pytest.raises(InputError, match=r"s\.parquet was not written by this version"):
        read_records(tmp_path / "s.parquet", Vote)


def test_a_column_of_another_type_is_named(tmp_path: Path) -> None:
    write_records(tmp_path / "s.parquet", [SCORE], Score)
    table = pq.read_table(tmp_path / "s.parquet")
    place = table.schema.get_field_index("value")
    pq.write_table(table.set_column(place, "value", pa.array(["x"])), tmp_path / "s.parquet")
    for read in (read_records, read_table):
        with pytest.raises(InputError, match="column 'value' holds string where double belongs"):
            read(tmp_path / "s.parquet", Score)
    pq.write_table(table.set_column(place, "value", pa.array([2], pa.int32())), tmp_path / "s.parquet")
    assert read_records(tmp_path / "s.parquet", Score) == [replace(SCORE, value=2.0)]


def test_a_run_is_continued_with_the_same_settings_only(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "r", "generate", {"seeds": (1, 2)})
    assert Run.create(tmp_path / "r", "generate", {"seeds": [1, 2]}) == run
    with pytest.raises(InputError, match="other settings \\(seeds\\)"):
        Run.create(tmp_path / "r", "generate", {"seeds": [3]})
    with pytest.raises(InputError, match="generate run"):
        Run.create(tmp_path / "r", "train", {"seeds": [1, 2]})


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="not empty and not a run"):
        Run.create(tmp_path, "generate", {})
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_a_run_killed_at_its_very_start_is_started_again(tmp_path: Path) -> None:
    (tmp_path / "run.json.partial").write_text('{"form')
    assert Run.create(tmp_path, "generate", {}).info["kind"] == "generate"


def test_a_run_of_another_format_is_refused(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "r", "generate", {})
    run.write_info({**run.info, "format": 99, "pixeval": "7.0"})
    with pytest.raises(InputError, match=r"format 99 by pixeval 7\.0"):
        Run.open(tmp_path / "r")
    for damaged in (b'{"format": 1, "kin', b"\xff\xfe\0", b"[]", b'{"format": 1, "kind": "generate", "config": 5}'):
        (tmp_path / "r" / "run.json").write_bytes(damaged)
        with pytest.raises(InputError, match=r"run\.json is damaged"):
            Run.open(tmp_path / "r")
    (tmp_path / "r" / "run.json").unlink()
    (tmp_path / "r" / "run.json").mkdir()
    with pytest.raises(InputError, match=r"run\.json is damaged"):
        Run.open(tmp_path / "r")
    with pytest.raises(InputError, match="not a run folder"):
        Run.open(tmp_path)
    with pytest.raises(InputError, match="gone does not exist"):
        Run.open(tmp_path / "gone")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file is a file"):
        Run.open(tmp_path / "file")
    with pytest.raises(InputError, match="file is a file"):
        Run.create(tmp_path / "file", "generate", {})


def test_run_json_says_what_made_it(tmp_path: Path) -> None:
    Run.create(tmp_path / "r", "generate", {"x": Path("a/b")})
    info = json.loads((tmp_path / "r" / "run.json").read_text())
    assert info["config"] == {"x": "a/b"}
    assert {"torch", "diffusers", "python"} <= set(info["versions"])
    assert info["command"]


def test_votes_of_all_files_count_once_in_order(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "r", "generate", {})
    later = replace(VOTE, id="v2", answered_at="2026-01-02T00:00:00Z", supersedes="v1", choice="right")
    write_records(run.path / "votes" / "b.parquet", [VOTE], Vote)
    write_records(run.path / "votes" / "a.parquet", [later, VOTE], Vote)
    assert run.votes() == [VOTE, later]
    assert current_votes(run.votes()) == [later]


def test_sample_ids_differ_in_every_part() -> None:
    ids = {sample_id("g", "p", 1), sample_id("h", "p", 1), sample_id("g", "q", 1), sample_id("g", "p", 2)}
    ids |= {sample_id("g", "p", None), sample_id("g", "p", 1, "x"), sample_id("gp", "", 1)}
    assert len(ids) == 7
    assert all(len(i) == 16 for i in ids)
