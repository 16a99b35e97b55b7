"""The labelling app from the command line's side: arms, simulated annotators, export, checking, addresses."""

import json
import socket
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pandas as pd
import pytest
import sqlalchemy as sa
from label_study import SECRETS, make_run, two_runs

from human_eval_app.accounts import enrolment_token, redeem
from human_eval_app.answers import Answer, append
from human_eval_app.desk import begin
from human_eval_app.export import export_votes
from human_eval_app.projects import list_projects
from human_eval_app.schedule import Design, match_samples
from human_eval_app.serve import LabelConfig, _listen, addresses, label
from human_eval_app.session import standing
from human_eval_app.simulate import SimulatedAnnotator, simulate_votes
from human_eval_app.store import Store
from human_eval_app.study import open_study, pairs_of, read_arms, settle_overlap
from pixeval.cli import parse
from pixeval.config_file import words_of
from pixeval.errors import InputError
from pixeval.folder import folder_samples
from pixeval.records import QUESTIONS, Prompt, counted_votes
from pixeval.runs import Run
from pixeval.stats.agreement import vote_agreement
from pixeval.stats.win_rates import left_share, win_rates

NOW = "2026-01-01T00:00:00.000+00:00"


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    return two_runs(tmp_path)


# ---- what is compared ------------------------------------------------------------------------------------------------


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path, runs: tuple[Path, Path]) -> None:
    alone = make_run(tmp_path / "alone", "basemodel", 1, 0.1)
    other = Run.create(tmp_path / "other", "generate", {})
    with pytest.raises(InputError, match="holds no samples"):
        read_arms([runs[0], other.path])
    samples = [s.__class__(**{**s.__dict__, "prompt_id": "else", "label": "x", "id": "x"}) for s in alone.samples()]
    other.write_samples(samples)
    with pytest.raises(InputError, match="no prompt in common"):
        match_samples(read_arms([alone.path, other.path]).groups)
    with pytest.raises(InputError, match="two runs"):
        match_samples(read_arms([runs[0]]).groups)
    with pytest.raises(InputError, match="given twice"):
        read_arms([runs[0], runs[0]])
    with pytest.raises(InputError, match="not a run folder"):
        read_arms([tmp_path / "nowhere", runs[0]])
    both = Run.create(tmp_path / "both", "train", {})
    both.write_samples([*Run.open(runs[0]).samples(), *Run.open(runs[1]).samples()])
    with pytest.raises(InputError, match="say which, for example"):
        read_arms([both.path])
    with pytest.raises(InputError, match="no samples labelled 'nolabel'"):
        read_arms([f"{both.path}:nolabel"])
    arms = read_arms([f"{both.path}:basemodel", f"{both.path}:tunedmodel"])
    assert list(arms.groups) == ["basemodel", "tunedmodel"]
    with pytest.raises(InputError, match="no image file is there"):
        open_study(Store.at(tmp_path / "x.sqlite3"), arms, Design())


def test_folders_of_images_are_matched_by_name_and_asked_without_text(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = []
    for number, run in enumerate(runs):
        folder = tmp_path / f"plain{number}"
        folder.mkdir()
        for place, sample in enumerate(Run.open(run).samples()):
            (folder / f"{place}.png").write_bytes((run / sample.path).read_bytes())
        folders.append(folder)
    arms = read_arms(folders)
    pairs = pairs_of(arms, match_samples(arms.groups), QUESTIONS)
    assert {(p.a.path.name, p.b.path.name) for p in pairs} == {(f"{i}.png", f"{i}.png") for i in range(12)}
    assert {p.questions for p in pairs} == {("flaws", "appeal")} and {p.prompt for p in pairs} == {""}
    rows = "".join(f"{i}.png,thing {i}\n" for i in range(12))
    (tmp_path / "prompts.csv").write_text("file_name,prompt\n" + rows)
    arms = read_arms(folders, tmp_path / "prompts.csv")
    (folders[0] / "3.png").write_text("no image")
    store = Store.at(tmp_path / "x.sqlite3")
    open_study(store, arms, Design())
    assert "left out 1 pairs" in capsys.readouterr().err
    with store.read() as connection:
        count = connection.execute(sa.text("SELECT COUNT(*), COUNT(DISTINCT pair) FROM tasks")).one()
    assert tuple(count) == (33, 11)
    assert folder_samples(folders[0])[0].prompt is None


def test_yes_no_questions_come_with_the_prompts_of_a_run(runs: tuple[Path, Path]) -> None:
    Run.open(runs[0]).add_prompts([Prompt("p3", "a thing", questions=("Is it a thing?",))])
    arms = read_arms(runs)
    pairs = pairs_of(arms, match_samples(arms.groups), QUESTIONS)
    assert {p.prompt_id: p.checks for p in pairs if p.checks} == {"p3": ("Is it a thing?",)}


def test_small_studies_are_judged_whole_by_everybody() -> None:
    assert [settle_overlap(None, 10), settle_overlap(None, 500), settle_overlap(0, 500), settle_overlap(3, 10)] == [
        None,
        5,
        None,
        3,
    ]


# ---- simulated annotators --------------------------------------------------------------------------------------------


def test_simulated_annotators_are_marked_and_deterministic(runs: tuple[Path, Path], tmp_path: Path) -> None:
    samples = [s for run in runs for s in Run.open(run).samples()]
    better = {s.id: float(s.label == "tunedmodel") for s in samples}
    people = [SimulatedAnnotator(f"sim {i}", noise=0.8, tie_threshold=0.4) for i in range(3)]

    def votes(name: str, seed: int = 0) -> list[Any]:
        return simulate_votes(runs, {"appeal": better, "flaws": better}, people, tmp_path / name, seed)

    first = votes("one.sqlite3")
    assert len(counted_votes(first)) == 3 * 12 * 2 and all(v.simulated for v in first)
    assert Counter(v.purpose for v in first)["repeat"] == 3 * 2
    assert first == votes("two.sqlite3") == votes("one.sqlite3")
    assert first != votes("three.sqlite3", seed=1)
    found = win_rates(first, "tunedmodel", "basemodel", "appeal")
    assert found.simulated and found.net.low is not None and found.net.low > 0
    agreed = vote_agreement(first, "appeal")
    assert found.tie > 0 and agreed is not None and agreed.alpha.value > -0.2


def test_an_annotator_who_always_answers_left_wins_nobody_anything(runs: tuple[Path, Path], tmp_path: Path) -> None:
    samples = [s for run in runs for s in Run.open(run).samples()]
    biased = SimulatedAnnotator("lefty", noise=0.0, side_bias=100.0)
    votes = simulate_votes(runs, {"appeal": {s.id: 0.0 for s in samples}}, [biased], tmp_path / "x.sqlite3")
    found = win_rates(votes, "tunedmodel", "basemodel", "appeal")
    assert found.net.value == 0.0 and found.win == found.loss == 6
    bias = left_share(votes)
    assert bias is not None and bias.value == 1.0 and bias.low is not None and bias.low > 0.5
    # The swapped repeats contradict every one of their first answers.
    first = {frozenset((v.left, v.right)): v.left for v in votes if v.purpose == "work"}
    again = [v for v in votes if v.purpose == "repeat"]
    assert again and all(first[frozenset((v.left, v.right))] != v.left for v in again)


def test_samples_without_utility_are_skipped(runs: tuple[Path, Path], tmp_path: Path) -> None:
    votes = simulate_votes(runs, {"flaws": {}}, [SimulatedAnnotator("sim")], tmp_path / "x.sqlite3")
    assert {v.choice for v in votes} == {"skip"} and {v.purpose for v in votes} == {"work"}


# ---- export, checking, addresses, options ----------------------------------------------------------------------------


def answer(store: Store, choice: Any) -> None:
    """One answer of Anna's."""
    with store.write() as connection:
        project = list_projects(connection)[0]
        token = enrolment_token(store.secret, project)
        from human_eval_app.accounts import find_user

        anna = find_user(connection, "anna") or redeem(connection, store.secret, token, "anna", None, None)
        begin(connection, store.secret, project, anna.id)
        item = standing(connection, store.secret, project, anna.id).queue[0]
        assert append(connection, store.secret, project.id, Answer(item.assignment, item.revision, choice, 1.0, NOW))


def test_votes_are_exported_in_the_middle_and_replaced_later(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "db" / "votes.sqlite3"
    store = Store.at(place)
    open_study(store, read_arms(runs), Design())
    with pytest.raises(InputError, match="no votes to export"):
        export_votes(store, runs[0])
    answer(store, "left")
    export_votes(store, runs[0])
    answer(store, "tie")
    parquet, jsonl = export_votes(store, runs[0])
    assert Run.open(runs[0]).votes() == sorted(store.votes(), key=lambda v: (v.answered_at, v.id))
    assert pd.read_parquet(parquet)["choice"].tolist() == ["left", "tie"]
    facts = json.loads(parquet.with_suffix(".json").read_text())
    assert facts["answers"] == 2 and facts["guideline"].startswith("You will see two images")
    rows = [json.loads(line) for line in jsonl.read_text().splitlines()]
    assert [row["annotator"] for row in rows] == ["anna", "anna"] and {row["left_label"] for row in rows} <= {*SECRETS}
    with pytest.raises(InputError, match="neither a run folder nor"):
        export_votes(store, tmp_path / "votes.csv")
    assert label(LabelConfig(runs, db=str(place), export=tmp_path / "out" / "votes.jsonl")) is None
    assert len((tmp_path / "out" / "votes.jsonl").read_text().splitlines()) == 2
    with pytest.raises(InputError, match="no vote database"):
        label(LabelConfig(runs, export=tmp_path / "votes.jsonl"))

    found = label(LabelConfig(db=str(place), verify=True))
    assert found is not None and found.startswith("study: all 2 answers are as they were given; the chain ends in ")
    with store.write() as connection:
        connection.execute(sa.text("UPDATE answers SET choice = 'right' WHERE number = 2"))
    with pytest.raises(InputError, match="answer 2 of project 'study' is broken"):
        label(LabelConfig(db=str(place), verify=True))
    store.close()


def test_addresses_are_for_annotators_for_people_and_for_the_lead(runs: tuple[Path, Path], tmp_path: Path) -> None:
    store = Store.at(tmp_path / "votes.sqlite3")
    with pytest.raises(InputError, match="has no projects"):
        addresses(store, "http://here", "study")
    open_study(store, read_arms(runs), Design())
    first = addresses(store, "http://here", "study", ("Änna B&b",))
    again = addresses(store, "http://here", "study")
    assert [line.split(":")[0] for line in first] == ["annotators", "Änna B&b", "lead"]
    # The open link stays; the lead's is new at each start, and the one before does not hold any more.
    assert first[0] == again[0] and first[-1] != again[-1]
    links = [parse_qs(line.partition("#")[2]) for line in (first[1], again[-1])]
    assert [link["name"] for link in links] == [["Änna B&b"], ["lead"]]
    with store.write() as connection:
        people = [redeem(connection, store.secret, link["join"][0], "x", None, None) for link in links]
    assert [(p.name, p.role) for p in people] == [("Änna B&b", "annotator"), ("lead", "admin")]
    store.close()


def test_a_study_is_set_up_by_a_file(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text('runs = ["a", "b"]\nvotes_per_pair = 3\nactive = true\nquestions = ["flaws"]\ntitle = "Which?"\n')

    def config(*words: str) -> Any:
        return parse(LabelConfig, [*words_of(file, LabelConfig, "label", list(words)), *words], "label", "")

    assert config() == LabelConfig(
        (Path("a"), Path("b")), votes_per_pair=3, active=True, questions=("flaws",), title="Which?"
    )
    assert config("c", "d", "--votes-per-pair", "1").runs == (Path("c"), Path("d"))
    assert config("--votes-per-pair", "1").votes_per_pair == 1
    file.write_text("voters = 3\n")
    with pytest.raises(InputError, match=r"line 1.*'voters'"):
        config()


def test_a_port_that_cannot_be_had_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match=r"cannot listen on 127\.0\.0\.1:[0-9]+ .*give another --port"):
            _listen("127.0.0.1", taken.getsockname()[1])
    for port in (0, -1, 99_999):
        with pytest.raises(InputError, match=f"--port must be 1 to 65535, got {port}"):
            _listen("127.0.0.1", port)
