"""Votes from Label Studio and pick-a-pic: every good row a vote, every bad one counted and named."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from label_study import make_run, two_runs
from lead_study import LeadStudy, careful

from human_eval_app.schedule import Design
from human_eval_app.serve import LabelConfig, label
from human_eval_app.study_export import ExportConfig, export_study
from human_eval_app.vote_import import import_votes
from pixeval.errors import InputError
from pixeval.runs import Run
from pixeval.stats.win_rates import win_rates


def annotation(selected: str | None, **more: Any) -> dict[str, Any]:
    """One annotation of Label Studio 1.x's JSON export with a pairwise tag."""
    result = {"id": "Dx", "from_name": "pw", "to_name": "image1,image2", "type": "pairwise"}
    value = [{**result, "value": {"selected": selected}}] if selected else []
    at = "2026-03-01T09:00:00.713742Z"
    return {
        "id": 7,
        "completed_by": 3,
        "lead_time": 4.288,
        "created_at": at,
        "was_cancelled": False,
        "result": value,
    } | more


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    return two_runs(tmp_path, 6)


def task(number: int, annotations: list[Any], swapped: bool = False, **data: str) -> dict[str, Any]:
    a = f"/data/upload/1/0badc0de-basemodel-{number}-0.png"
    b = f"/data/local-files/?d=exports%2Fimages%2Ftunedmodel-{number}-0.png"
    both = {"image1": b, "image2": a} if swapped else {"image1": a, "image2": b}
    return {"id": 100 + number, "data": {"prompt": "x", **both, **data}, "annotations": annotations}


def test_label_studio_pairs_become_votes_of_the_run(runs: tuple[Path, Path], tmp_path: Path) -> None:
    choices = {"from_name": "tie", "to_name": "image1", "type": "choices", "value": {"choices": ["Tie"]}}
    tasks = [
        task(0, [annotation("left"), annotation("right", id=8, completed_by={"email": "b@example.org"})]),
        task(1, [annotation("left")], swapped=True),
        task(2, [annotation(None, result=[choices])]),
        task(3, [annotation("right", was_cancelled=True)]),
        task(4, [annotation(None)]),
        task(5, [annotation("left")], image2="https://example.org/nowhere.png"),
        task(0, [annotation("left", created_at="yesterday", id=9), "nonsense"]),
        "nonsense",
    ]
    file = tmp_path / "project-1.json"
    file.write_text(json.dumps(tasks))
    found = import_votes(file, runs, "appeal")
    votes = {(vote.prompt_id, vote.annotator): vote for vote in found.votes}
    assert len(found.votes) == 4 and len(found.refused) == 6
    first, second = votes["p0", "3"], votes["p0", "b@example.org"]
    assert (first.left_label, first.choice, first.seconds, first.question) == ("basemodel", "left", 4.288, "appeal")
    assert first.answered_at == "2026-03-01T09:00:00.713+00:00" and second.choice == "right"
    assert votes["p1", "3"].left_label == "tunedmodel" and votes["p2", "3"].choice == "tie"
    reasons = {refused.row: refused.why for refused in found.refused}
    assert reasons["task 103, annotation 7"] == "it was cancelled"
    assert reasons["task 104, annotation 7"] == "it holds no pairwise answer"
    assert "1 of its images are known" in reasons["task 105, annotation 7"]
    assert "ValueError" in reasons["task 100, annotation 9"] and "malformed" in reasons["task 100, annotation 2"]
    assert reasons["task 8"] == "it is no task with data"
    assert "6 rows left out:\n  1 x" in found.summary() or "2 x" in found.summary()
    # They are votes of the run like any others, and importing again replaces them.
    import_votes(file, runs, "appeal")
    assert len(Run.open(runs[0]).votes()) == 4
    rates = win_rates(Run.open(runs[0]).votes(), "basemodel", "tunedmodel", "appeal")
    assert (rates.win, rates.tie, rates.loss) == (1, 1, 2)


def test_the_small_export_and_the_name_of_the_tag(runs: tuple[Path, Path], tmp_path: Path) -> None:
    rows = [
        {
            "id": 1,
            "image1": "basemodel-0-0.png",
            "image2": "tunedmodel-0-0.png",
            "flaws": {"selected": "right"},
            "annotator": 2,
        },
        {"id": 2, "image1": "basemodel-0-0.png", "image2": "tunedmodel-1-0.png", "flaws": {"selected": "right"}},
    ]
    file = tmp_path / "min.json"
    file.write_text(json.dumps(rows))
    found = import_votes(file, runs, "appeal")
    assert [(vote.question, vote.choice, vote.annotator) for vote in found.votes] == [("flaws", "right", "2")]
    assert found.refused[0].why == "its images are of different prompts"


def test_images_of_one_name_in_two_runs_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    same = [make_run(tmp_path / name, "x", 1, 0.5).path for name in ("one", "two")]
    tasks = [
        {
            "id": 1,
            "data": {"a": "s3://b/one/images/x-0-0.png", "b": "s3://b/two/images/x-0-0.png"},
            "annotations": [annotation("left")],
        }
    ]
    file = tmp_path / "s3.json"
    file.write_text(json.dumps(tasks))
    with pytest.raises(InputError, match="both images are the same"):
        # Runs of the same generator hold the same sample twice.
        import_votes(file, same, "appeal")


def test_our_own_pick_a_pic_table_comes_back_as_votes(tmp_path: Path) -> None:
    study = LeadStudy(tmp_path, Design(questions=("appeal",), repeats=0.0, gold=0.0), prompts=5)
    study.answer("anna", careful)
    export_study(study.store, study.project, tmp_path / "out", ExportConfig(questions=("appeal",)))
    table = tmp_path / "out/pairs/pickapic/train.parquet"
    found = import_votes(table, study.runs, "appeal")
    assert len(found.votes) == pq.read_metadata(table).num_rows and not found.refused
    for vote in found.votes:
        winner = vote.left if vote.choice == "left" else vote.right
        said = {v.left if v.choice == "left" else v.right for v in study.store.votes() if v.prompt_id == vote.prompt_id}
        assert winner in said


def test_a_pick_a_pic_table_becomes_a_run_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run.open(two_runs(tmp_path, 3)[0])
    images = [run.image(sample).read_bytes() for sample in run.samples()]
    rows = [
        row(images[0], images[1], 1.0, 0.0),
        row(images[1], images[2], 0.5, 0.5, image_0_uid="u1", image_1_uid="u2"),
        row(images[0], images[1], 0.7, 0.3),
        row(images[0], b"no image", 1.0, 0.0, image_1_uid="../../broken"),
        row(images[0], images[1], 1.0, 0.0, has_label=False),
    ]
    file = tmp_path / "pick.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    with pytest.raises(InputError, match="--export a new folder"):
        label(LabelConfig(imported=file))
    said = label(LabelConfig(imported=file, export=tmp_path / "picked"))
    assert said is not None and said.startswith("2 votes imported") and "3 rows left out" in said
    assert "row 3: its labels are 0.7 and 0.3" in said and "row 4: its images are not" in said and "row 5" in said
    made = Run.open(tmp_path / "picked")
    assert {sample.label for sample in made.samples()} == {"sd", "sdxl"}
    assert all(made.image(sample).parent == tmp_path / "picked" / "images" for sample in made.samples())
    votes = made.votes()
    assert [vote.choice for vote in votes] == ["left", "tie"] and votes[0].annotator == "user-5"


def row(first: bytes, second: bytes, label_0: float, label_1: float, **more: Any) -> dict[str, Any]:
    return {
        "caption": "a cat", "image_0_uid": "u0", "image_1_uid": "u1", "jpg_0": first, "jpg_1": second,
        "label_0": label_0, "label_1": label_1, "model_0": "sd", "model_1": "sdxl", "has_label": True, "user_id": 5,
    } | more  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", b"{}", "no list of tasks"),
        ("a.json", b"[1, 2", "cannot be read as JSON"),
        ("a.json", b"[]", "no row"),
        ("a.csv", b"", "json .Label Studio. or .parquet"),
        ("a.parquet", b"PAR1 nonsense", "cannot be read as a table"),
    ],
)
def test_files_that_are_no_votes_are_refused(
    name: str, content: bytes, words: str, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        import_votes(tmp_path / name, runs, "appeal")
