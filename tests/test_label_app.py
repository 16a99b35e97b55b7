"""The labelling app without a browser: schedule, store, sessions, simulated annotators, API, export."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fastapi.testclient import TestClient
from label_study import SECRETS, make_run, two_runs
from PIL import Image, PngImagePlugin

from human_eval_app.export import export_votes
from human_eval_app.schedule import BATCH, match_samples, plan
from human_eval_app.serve import LabelConfig, label
from human_eval_app.session import standing, undo_of
from human_eval_app.simulate import SimulatedAnnotator, simulate_votes
from human_eval_app.store import Answer, Store
from human_eval_app.study import Study, open_study, read_arms
from human_eval_app.ui import create_app
from pixeval.errors import InputError
from pixeval.records import QUESTIONS, current_votes
from pixeval.runs import Run
from pixeval.stats.agreement import vote_agreement
from pixeval.stats.win_rates import left_share, win_rates

NOW = "2026-01-01T00:00:00.000+00:00"


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    return two_runs(tmp_path)


@pytest.fixture
def study(runs: tuple[Path, Path], tmp_path: Path) -> Iterator[Study]:
    store = Store.at(tmp_path / "db" / "votes.sqlite3")
    yield open_study(read_arms(runs), QUESTIONS, 0, store)
    store.close()


# ---- schedule ------------------------------------------------------------------------------------------------------


def test_sides_are_balanced_and_orders_differ(runs: tuple[Path, Path]) -> None:
    arms = read_arms(runs)
    labels = {s.id: name for name, group in arms.groups.items() for s in group}
    matchups = match_samples(arms.groups)
    plans = [plan(f"person {i}", matchups, labels, QUESTIONS, 7, "secret") for i in range(6)]
    for planned in plans:
        left = Counter((a.question, a.left_label) for a in planned)
        assert set(left.values()) == {6} and len(left) == 6
        assert [a.position for a in planned] == list(range(36))
    assert len({tuple(a.left for a in planned) for planned in plans}) == 6
    assert len({a.id for planned in plans for a in planned}) == 6 * 36
    again = plan("person 0", matchups[::-1], labels, QUESTIONS, 7, "secret")
    assert again == plans[0]


def test_flaws_of_a_pair_come_before_its_prompt_is_seen(study: Study) -> None:
    study.join("anna")
    planned = study.store.assignments("anna")
    seen: set[str] = set()
    for assignment in planned:
        if assignment.question == "flaws":
            assert assignment.prompt_id not in seen
        seen.add(assignment.prompt_id)
    assert [a.question for a in planned[: BATCH + 1]] == ["flaws"] * BATCH + ["appeal"]


def test_samples_are_matched_by_prompt_and_seed(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", "basemodel", 3, 0.1, seeds=(0, 1))
    b = make_run(tmp_path / "b", "tunedmodel", 3, 0.9, seeds=(1, 2))
    c = make_run(tmp_path / "c", "other", 3, 0.5, seeds=(8, 9))
    shared = match_samples({"a": a.samples(), "b": b.samples()})
    assert [(m.a.seed, m.b.seed) for m in shared] == [(1, 1)] * 3
    by_order = match_samples({"a": a.samples(), "c": c.samples()})
    assert [(m.a.seed, m.b.seed) for m in by_order] == [(0, 8), (1, 9)] * 3
    assert len(match_samples({"a": a.samples(), "b": b.samples(), "c": c.samples()})) == 3 + 6 + 6


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
        open_study(arms, QUESTIONS, 0, Store.at(tmp_path / "x.sqlite3"))


# ---- store and session ---------------------------------------------------------------------------------------------


def test_an_answer_is_stored_once_and_an_undo_supersedes_it(study: Study) -> None:
    study.join("anna")
    first = study.standing("anna").queue[0]
    answer = Answer(first.assignment.id, first.revision, "left", 1.5, NOW)
    assert study.store.append([answer]) is True
    assert study.store.append([answer]) is False
    assert study.store.append([Answer(first.assignment.id, 0, "right", 1.0, NOW)]) is False
    now = study.standing("anna")
    assert (now.done, now.total, now.last) == (1, 36, answer)
    assert now.queue[0].assignment.position == 1

    assert study.store.append([undo_of(answer, NOW)]) is True
    now = study.standing("anna")
    assert (now.done, now.last, now.queue[0].assignment.id, now.queue[0].revision) == (0, None, first.assignment.id, 2)
    assert [v.choice for v in current_votes(study.store.votes())] == ["skip"]

    study.store.append([Answer(first.assignment.id, 2, "right", 2.0, NOW)])
    votes = study.store.votes()
    assert len(votes) == 3 and [v.supersedes for v in votes] == [None, votes[0].id, votes[1].id]
    assert [v.choice for v in current_votes(votes)] == ["right"]


def test_a_reopened_store_goes_on_with_recorded_sides(study: Study, runs: tuple[Path, Path], tmp_path: Path) -> None:
    study.join("anna")
    planned = study.store.assignments("anna")
    study.store.append([Answer(planned[0].id, 0, "tie", 1.0, NOW)])
    reopened = open_study(read_arms(runs[::-1]), QUESTIONS, 99, Store.at(tmp_path / "db" / "votes.sqlite3"))
    reopened.join("anna")
    assert reopened.store.assignments("anna") == planned
    assert reopened.standing("anna").done == 1
    assert (reopened.seed, reopened.store.secret) == (0, study.store.secret)
    third = make_run(tmp_path / "third", "third", 12, 0.5)
    larger = open_study(read_arms([*runs, third.path]), QUESTIONS, 0, Store.at(tmp_path / "db" / "votes.sqlite3"))
    larger.join("anna")
    assert larger.store.assignments("anna")[:36] == planned
    assert larger.standing("anna").total == 3 * 36


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no database " * 100)
    with pytest.raises(InputError, match="cannot be used"):
        Store.at(tmp_path / "notes.txt")


def test_standing_without_assignments() -> None:
    now = standing([], [])
    assert (now.done, now.total, now.queue, now.last) == (0, 0, (), None)


# ---- simulated annotators ------------------------------------------------------------------------------------------


def test_simulated_annotators_are_marked_and_deterministic(runs: tuple[Path, Path], tmp_path: Path) -> None:
    samples = [s for run in runs for s in Run.open(run).samples()]
    better = {s.id: float(s.label == "tunedmodel") for s in samples}
    people = [SimulatedAnnotator(f"sim {i}", noise=0.8, tie_threshold=0.4) for i in range(3)]

    def votes(name: str, seed: int = 0) -> list[Any]:
        return simulate_votes(runs, {"appeal": better, "flaws": better}, people, tmp_path / name, seed)

    first = votes("one.sqlite3")
    assert len(first) == 3 * 12 * 2 and all(v.simulated for v in first)
    assert first == votes("two.sqlite3") == votes("one.sqlite3")
    assert first != votes("three.sqlite3", seed=1)
    found = win_rates(first, "tunedmodel", "basemodel", "appeal")
    assert found.simulated and found.net.low is not None and found.net.low > 0
    agreed = vote_agreement(first, "appeal")
    assert found.tie > 0 and (agreed is None or agreed.alpha.value > -0.2)


def test_an_annotator_who_always_answers_left_wins_nobody_anything(runs: tuple[Path, Path], tmp_path: Path) -> None:
    samples = [s for run in runs for s in Run.open(run).samples()]
    biased = SimulatedAnnotator("lefty", noise=0.0, side_bias=100.0)
    votes = simulate_votes(runs, {"appeal": {s.id: 0.0 for s in samples}}, [biased], tmp_path / "x.sqlite3")
    assert win_rates(votes, "tunedmodel", "basemodel", "appeal").net.value == 0.0
    bias = left_share(votes)
    assert bias is not None and bias.value == 1.0 and bias.low is not None and bias.low > 0.5


def test_samples_without_utility_are_skipped(runs: tuple[Path, Path], tmp_path: Path) -> None:
    votes = simulate_votes(runs, {"flaws": {}}, [SimulatedAnnotator("sim")], tmp_path / "x.sqlite3")
    assert {v.choice for v in votes} == {"skip"}


# ---- API -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(study: Study) -> Iterator[TestClient]:
    with TestClient(create_app(study, "lead-token")) as client:
        yield client


def ballot(item: dict[str, Any], choice: str = "left", **changes: Any) -> dict[str, Any]:
    body = {"annotator": "anna", "assignment": item["assignment"], "revision": item["revision"], "choice": choice}
    return {**body, "seconds": 1.0, **changes}


def test_votes_by_http_are_idempotent_and_can_be_undone(client: TestClient, study: Study) -> None:
    state = client.get("/api/next", params={"annotator": "anna"}).json()
    assert (state["done"], state["total"], len(state["queue"]), state["last"]) == (0, 36, 3, None)
    first, second = state["queue"][:2]
    after = client.post("/api/vote", json=ballot(first)).json()
    assert after["stored"] and after["done"] == 1 and after["queue"][0] == second
    repeated = client.post("/api/vote", json=ballot(first, "right")).json()
    assert not repeated["stored"] and repeated["done"] == 1
    assert [v.choice for v in study.store.votes()] == ["left"]

    undone = client.post("/api/undo", json={"annotator": "anna", **after["last"]}).json()
    assert undone["stored"] and undone["done"] == 0
    assert (undone["queue"][0]["assignment"], undone["queue"][0]["revision"]) == (first["assignment"], 2)
    assert not client.post("/api/undo", json={"annotator": "anna", **after["last"]}).json()["stored"]
    # A late repetition of the first answer changes nothing.
    assert not client.post("/api/vote", json=ballot(first)).json()["stored"]
    assert client.post("/api/vote", json=ballot(undone["queue"][0], "tie")).json()["stored"]
    assert [v.choice for v in current_votes(study.store.votes())] == ["tie"]
    assert client.get("/api/progress", params={"annotator": "anna"}).json() == {"done": 1, "total": 36}


def test_bad_requests_are_refused(client: TestClient, study: Study) -> None:
    item = client.get("/api/next", params={"annotator": "anna"}).json()["queue"][0]
    refused = [
        (ballot(item, annotator="bob"), 404),
        (ballot(item, assignment="nothing"), 404),
        (ballot(item, "best"), 422),
        (ballot(item, seconds=-1), 422),
        (ballot(item, annotator="  "), 422),
        (ballot(item, annotator="x" * 65), 422),
        (ballot(item, label="basemodel"), 422),
    ]
    for body, code in refused:
        assert client.post("/api/vote", json=body).status_code == code, body
    assert client.get("/api/next", params={"annotator": ""}).status_code == 422
    assert client.get("/api/export").status_code == 403
    assert client.get("/api/export", params={"token": "wrong"}).status_code == 403
    assert client.get("/api/image/..%2Frun.json").status_code == 404
    assert study.store.votes() == []


def test_nothing_sent_to_an_annotator_tells_the_sides_apart(client: TestClient, study: Study) -> None:
    sent: list[str] = []

    def keep(response: Any) -> Any:
        sent.append(str(response.url) + str(response.headers) + response.content.decode("latin-1"))
        return response

    for path in ("/", "/config", "/theme.css", "/openapi.json", "/docs", "/api/nothing", "/gradio_api/info"):
        keep(client.get(path))
    state = keep(client.get("/api/next", params={"annotator": "anna"})).json()
    prompts_of_flaws = 0
    while state["queue"]:
        item = state["queue"][0]
        if item["question"] == "flaws":
            prompts_of_flaws += item["prompt"] is not None
        for side in ("left", "right"):
            keep(client.get(f"/api/image/{item[side]}"))
        state = keep(client.post("/api/vote", json=ballot(item))).json()
    assert prompts_of_flaws == 0
    keep(client.post("/api/undo", json={"annotator": "anna", **state["last"]}))
    everything = "\n".join(sent)
    assert len(sent) > 36 * 3
    identities = [s.id for m in study.matchups for s in (m.a, m.b)]
    hashes = [s.sha256 for m in study.matchups for s in (m.a, m.b)]
    for secret in (*SECRETS, *identities, *hashes, study.store.secret, "images/", ".sqlite3"):
        assert secret not in everything, secret


def test_prompts_of_flaws_are_not_in_the_reply_at_all(client: TestClient) -> None:
    reply = client.get("/api/next", params={"annotator": "anna"})
    assert {item["question"] for item in reply.json()["queue"]} == {"flaws"}
    assert "a thing" not in reply.text


def test_images_are_served_without_metadata(runs: tuple[Path, Path], tmp_path: Path) -> None:
    for run in runs:
        for sample in Run.open(run).samples():
            chunks = PngImagePlugin.PngInfo()
            chunks.add_text("parameters", "tunedmodel, 50 steps")
            file = run / sample.path
            with Image.open(file) as image:
                image.load()
            image.save(file, pnginfo=chunks)
    store = Store.at(tmp_path / "votes.sqlite3")
    study = open_study(read_arms(runs), QUESTIONS, 0, store)
    broken = study.images[study.matchups[0].a.id]
    broken.write_bytes(b"\x89PNG nothing")
    client = TestClient(create_app(study, "t"))
    response = client.get(f"/api/image/{study.image_key(study.matchups[1].a.id)}")
    assert response.status_code == 200 and b"parameters" not in response.content
    assert response.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert "etag" not in response.headers and "last-modified" not in response.headers
    unreadable = client.get(f"/api/image/{study.image_key(study.matchups[0].a.id)}")
    assert unreadable.status_code == 422 and broken.name not in unreadable.text
    store.close()


# ---- export --------------------------------------------------------------------------------------------------------


def test_votes_are_exported_in_the_middle_and_replaced_later(
    client: TestClient, study: Study, runs: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no votes to export"):
        export_votes(study.store, runs[0])
    item = client.get("/api/next", params={"annotator": "anna"}).json()["queue"][0]
    state = client.post("/api/vote", json=ballot(item)).json()
    export_votes(study.store, runs[0])
    client.post("/api/vote", json=ballot(state["queue"][0], "tie"))
    parquet, jsonl = export_votes(study.store, runs[0])
    assert Run.open(runs[0]).votes() == study.store.votes()
    assert pd.read_parquet(parquet)["choice"].tolist() == ["left", "tie"]
    assert [json.loads(line)["annotator"] for line in jsonl.read_text().splitlines()] == ["anna", "anna"]
    lead = client.get("/api/export", params={"token": "lead-token"})
    assert [json.loads(line)["left_label"] in SECRETS for line in lead.text.splitlines()] == [True, True]
    with pytest.raises(InputError, match="neither a run folder nor"):
        export_votes(study.store, tmp_path / "votes.csv")
    config = LabelConfig(runs, db=tmp_path / "db" / "votes.sqlite3", export=tmp_path / "out" / "votes.jsonl")
    label(config)
    assert len((tmp_path / "out" / "votes.jsonl").read_text().splitlines()) == 2
    with pytest.raises(InputError, match="no vote database"):
        label(LabelConfig(runs, export=tmp_path / "votes.jsonl"))
