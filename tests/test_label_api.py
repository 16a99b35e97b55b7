"""The labelling app over HTTP, without a browser: contract, accounts, roles, blindness."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from label_http import EVIL, Person, Study
from label_study import SECRETS

from human_eval_app import accounts, web
from human_eval_app.accounts import add_user, hash_password, invite
from human_eval_app.guard import MAX_BODY
from human_eval_app.known import read_known
from human_eval_app.projects import set_state
from human_eval_app.store import Store
from human_eval_app.ui import create_app
from pixeval.errors import InputError
from pixeval.records import current_votes


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """One for tests that add people of their own to it."""
    study = Study(tmp_path_factory.mktemp("study"))
    yield study
    study.store.close()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """All tests come from one address."""
    monkeypatch.setattr(accounts, "FAILURES_PER_ADDRESS", 10_000)


# ---- the contract ----------------------------------------------------------------------------------------------------


def test_introduction_training_and_work(study: Study) -> None:
    anna = study.person("anna")
    about = anna.http.get(anna.path).json()
    assert [q["id"] for q in about["questions"]] == ["flaws", "appeal", "alignment"]
    assert about["guideline"].count("\n\n") >= 3 and "reject" in about["questions"][1]["choices"]
    state = anna.http.get(f"{anna.path}/next").json()
    assert (state["phase"], state["queue"], state["last"]) == ("introduction", [], None)
    state = anna.http.post(f"{anna.path}/begin").json()
    assert (state["phase"], state["done"], state["total"], len(state["queue"])) == ("training", 0, 2, 2)
    feedback = []
    for _ in range(2):
        reply = anna.vote(state["queue"][0]).json()
        state = reply
        feedback.append(reply["feedback"])
    assert all(f["correct"] == (f["expected"] == "left") and "spoilt" in f["why"] for f in feedback)
    assert (state["phase"], state["done"], len(state["queue"]), state["last"]) == ("work", 0, 3, None)
    assert set(state["queue"][0]) == {"assignment", "revision", "question", "prompt", "checks", "left", "right"}
    assert state["total"] == 36 + 2 + 4 and state["batch"]["size"] == 30 + 4 and state["seconds_left"] is None
    for _ in range(6):
        reply = anna.vote(state["queue"][0])
        state = reply.json()
        assert state["feedback"] is None and state["stored"]
    assert state["seconds_left"] == 1.0 * (42 - 6)
    assert anna.http.get("/api/me").json()["projects"] == [{"id": study.project.id, "title": "Compare images"}]
    assert anna.http.post(f"{anna.path}/begin").json()["queue"] != []


def test_votes_are_idempotent_and_can_be_undone(study: Study) -> None:
    bert = study.person("bert")
    state = bert.begin()
    first, second = state["queue"][:2]
    after = bert.vote(first).json()
    assert after["stored"] and after["done"] == 1 and after["queue"][0] == second
    repeated = bert.vote(first, "right").json()
    assert not repeated["stored"] and repeated["done"] == 1
    undone = bert.undo(after["last"]).json()
    assert undone["stored"] and undone["done"] == 0
    assert (undone["queue"][0]["assignment"], undone["queue"][0]["revision"]) == (first["assignment"], 2)
    assert not bert.undo(after["last"]).json()["stored"]
    # A late repetition of the first answer changes nothing.
    assert not bert.vote(first).json()["stored"]
    assert bert.vote(undone["queue"][0], "tie").json()["stored"]
    own = [v for v in current_votes(study.store.votes()) if v.annotator == "bert" and v.purpose != "training"]
    assert [v.choice for v in own] == ["tie"]


def test_marks_words_and_checks_are_kept(study: Study) -> None:
    cleo = study.person("cleo")
    state = cleo.begin()
    mark = {"side": "right", "category": "anatomy", "severity": "major", "x": 0.5, "y": 0.25}
    assert cleo.vote(state["queue"][0], marks=[mark], reason="hand").json()["stored"]
    state = cleo.http.get(f"{cleo.path}/next").json()
    while state["queue"][0]["question"] != "alignment":
        assert cleo.vote(state["queue"][0], words=[0]).status_code == 422
        state = cleo.vote(state["queue"][0]).json()
    item = state["queue"][0]
    assert item["prompt"].startswith("a thing <b>number</b>")
    checks = [{"question": "Is it a thing?", "left": "yes", "right": "unsure"}]
    assert cleo.vote(item, words=[99]).status_code == 422
    assert cleo.vote(item, words=[2, 1, 2], checks=checks).json()["stored"]
    own = [v for v in study.store.votes() if v.annotator == "cleo"]
    marked = next(v for v in own if v.marks)
    assert (marked.marks[0].category, marked.marks[0].width, marked.reason) == ("anatomy", 0.0, "hand")
    assert own[-1].words == (1, 2) and own[-1].checks[0].right == "unsure"


def test_bad_bodies_are_refused_and_store_nothing(study: Study) -> None:
    dora = study.person("dora")
    item = dora.begin()["queue"][0]
    before = len(study.store.votes())
    box = {"side": "left", "category": "blur", "severity": "minor", "x": 0.9, "y": 0.1, "width": 0.2}
    bad: list[dict[str, Any]] = [
        {"choice": "best"},
        {"choice": "reject"},
        {"seconds": -1},
        {"seconds": "NaN"},
        {"revision": -1},
        {"label": "basemodel"},
        {"marks": [box]},
        {"marks": [{**box, "width": 0, "category": "ugly"}]},
        {"marks": [{**box, "width": 0}] * 101},
        {"reason": "x" * 501},
        {"assignment": "x" * 65},
        {"words": [1]},
    ]
    for change in bad:
        body = {"assignment": item["assignment"], "revision": 0, "choice": "left", "seconds": 1.0, **change}
        assert dora.http.post(f"{dora.path}/vote", json=body).status_code == 422, change
    assert dora.vote({"assignment": "nothing", "revision": 0}).status_code == 404
    assert dora.vote({**item, "revision": 1}).json()["stored"] is False
    assert dora.vote({**item, "revision": 2}).json()["stored"] is False
    for raw in (b"{", b"[]", b"\xff", b'{"assignment": 1e999}'):
        reply = dora.http.post(f"{dora.path}/vote", content=raw)
        assert reply.status_code == 422 and isinstance(reply.json()["detail"], str)
    huge = b'{"reason": "' + b"x" * MAX_BODY + b'"}'
    assert dora.http.post(f"{dora.path}/vote", content=huge).status_code == 413
    pieces = (huge[i : i + 9999] for i in range(0, len(huge), 9999))
    assert dora.http.post(f"{dora.path}/vote", content=pieces).status_code in (400, 413)
    assert len(study.store.votes()) == before


def test_a_paused_study_gives_and_takes_nothing(study: Study) -> None:
    emil = study.person("emil")
    item = emil.begin()["queue"][0]
    with study.store.write() as connection:
        set_state(connection, study.project.id, "paused")
    try:
        state = emil.http.get(f"{emil.path}/next").json()
        assert (state["phase"], state["queue"]) == ("paused", [])
        assert emil.vote(item).status_code == 409
    finally:
        with study.store.write() as connection:
            set_state(connection, study.project.id, "open")
    assert emil.vote(item).json()["stored"]


# ---- who may what ----------------------------------------------------------------------------------------------------

ROUTES = {
    # (method, path): status for nobody, an annotator of another project, a member, the lead
    ("GET", "/api/me"): (401, 200, 200, 200),
    ("POST", "/api/join"): (403, 403, 403, 403),
    ("POST", "/api/login"): (403, 403, 403, 403),
    ("GET", "/api/project/{project}"): (401, 403, 200, 403),
    ("GET", "/api/project/{project}/next"): (401, 403, 200, 403),
    ("POST", "/api/project/{project}/begin"): (401, 403, 200, 403),
    ("POST", "/api/project/{project}/vote"): (401, 403, 200, 403),
    ("POST", "/api/project/{project}/undo"): (401, 403, 200, 403),
    ("GET", "/api/image/{key}"): (401, 404, 200, 404),
    ("GET", "/api/admin/projects"): (401, 403, 403, 200),
    ("POST", "/api/admin/project/{project}/state"): (401, 403, 403, 200),
    ("POST", "/api/admin/project/{project}/enrolment"): (401, 403, 403, 200),
    ("POST", "/api/admin/project/{project}/invitation"): (401, 403, 403, 200),
    ("GET", "/api/admin/project/{project}/votes"): (401, 403, 403, 200),
    ("GET", "/api/admin/project/{project}/verify"): (401, 403, 403, 200),
    ("POST", "/api/logout"): (401, 200, 200, 200),
}
"""Last the one that ends the session."""


def test_routes_are_for_the_roles_of_the_table(study: Study) -> None:
    known = {(m, p) for m, p in ROUTES if not p.startswith("/api/admin/")}
    assert {r for r in _routes(study.app.routes) if not r[1].startswith("/api/admin/")} == known
    member = study.person("frida")
    item = member.begin()["queue"][0]
    ballot = {"assignment": item["assignment"], "revision": 0, "choice": "tie", "seconds": 1.0}
    bodies = {
        "/api/join": {"token": "nothing", "name": "mallory"},
        "/api/login": {"name": "frida", "password": "wrong password"},
        "/api/project/{project}/vote": ballot,
        "/api/project/{project}/undo": {"assignment": item["assignment"], "revision": 0},
        "/api/admin/project/{project}/state": {"state": "open"},
    }
    people = (study.person(), study.person("gus", study.other), member, study.lead("lead of roles"))
    for (method, path), expected in ROUTES.items():
        address = path.format(project=study.project.id, key=item["left"]["key"])
        body = {"json": bodies.get(path, {})} if method == "POST" else {}
        for person, status in zip(people, expected, strict=True):
            reply = person.http.request(method, address, **body)
            assert reply.status_code == status, (method, path, reply.text)


def _routes(routes: Any) -> set[tuple[str, str]]:
    """Every route of the app itself below /api, however they are nested."""
    found = set()
    for route in routes:
        inner = getattr(route, "original_router", None) or getattr(route, "router", None)
        if inner is not None and not hasattr(route, "methods"):
            found |= _routes(inner.routes)
        path = getattr(route, "path", "")
        if path.startswith("/api"):
            found |= {(method, path) for method in getattr(route, "methods", ()) or () if method != "HEAD"}
    return found


def test_every_change_needs_the_token_of_its_session(study: Study) -> None:
    hana, ivan = study.person("hana"), study.person("ivan")
    item = hana.begin()["queue"][0]
    foreign = ivan.http.headers["X-CSRF-Token"]
    for token in ("", "x", foreign):
        hana.http.headers["X-CSRF-Token"] = token
        assert hana.vote(item).status_code == 403
        assert hana.http.post("/api/logout").status_code == 403
    assert ivan.begin()["queue"] and ivan.vote(item).status_code == 403
    elsewhere = {"Origin": "https://evil.example", "X-CSRF-Token": foreign}
    assert ivan.http.post(f"{ivan.path}/begin", headers=elsewhere).status_code == 403
    assert ivan.http.post("/api/login", json={}, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert ivan.http.post(f"{ivan.path}/begin", headers={"Origin": "http://testserver"}).status_code == 200


def test_sessions_are_hashed_hidden_from_scripts_and_end(study: Study) -> None:
    jana = study.person("jana")
    reply = jana.join(study.token(), "whatever")
    assert reply.json()["name"] == "jana"
    cookie = reply.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Secure" not in cookie
    token = jana.http.cookies[web.COOKIE]
    dump = "\n".join(_dump(study.store))
    assert token not in dump and study.token() not in dump
    secure = TestClient(create_app(study.store, secure=True))
    body = {"token": study.token(), "name": "kurt"}
    assert "Secure" in secure.post("/api/join", json=body).headers["set-cookie"]
    assert jana.http.post("/api/logout").status_code == 200
    jana.http.cookies[web.COOKIE] = token
    assert jana.http.get("/api/me").status_code == 401


def _dump(store: Store) -> Iterator[str]:
    with store.read() as connection:
        for table in sa.inspect(connection).get_table_names():
            for row in connection.execute(sa.text(f'SELECT * FROM "{table}"')):
                if table != "settings":
                    yield str(tuple(row))


def test_invitations_work_once_and_names_are_taken(study: Study) -> None:
    with study.store.write() as connection:
        token = invite(connection, "annotator", study.project.id)
        late = invite(connection, "annotator", study.project.id, days=-1)
        lars = add_user(connection, study.store.secret, "lars")
        bound = invite(connection, "annotator", study.project.id, lars.id)
    assert Person(study).join(token, "mona").status_code == 200
    for used in (token, late, "x"):
        assert Person(study).join(used, "nils").status_code == 403
    assert Person(study).join(bound, "anything").json()["name"] == "lars"
    assert Person(study).join(bound, "anything").status_code == 403
    open_token = study.token()
    for name in ("mona", "MONA", " ｍｏｎａ "):
        reply = Person(study).join(open_token, name)
        assert reply.status_code == 409 and "another name" in reply.json()["detail"]
    assert Person(study).join(open_token, EVIL[:64]).json()["name"] == EVIL[:64]
    for name in ("", "  ", "x" * 65, "a\x00b"):
        assert Person(study).join(open_token, name).status_code == 422
    lead = study.lead("lead of links")
    reply = lead.http.post(f"/api/admin/project/{study.project.id}/enrolment").json()
    assert Person(study).join(open_token, "otto").status_code == 403
    assert Person(study).join(reply["enrolment"].partition("=")[2], "otto").status_code == 200


def test_passwords_are_hashed_and_attempts_limited(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    token = study.token()
    assert Person(study).join(token, "paul", password="short").status_code == 422
    assert Person(study).join(token, "paul", password="a long password").status_code == 200
    kept = next(row for row in _dump(study.store) if "'paul'" in row)
    assert "$argon2id$" in kept and "a long password" not in kept
    again = Person(study)
    body = {"name": "Paul", "password": "a long password"}
    assert again.http.post("/api/login", json=body).json()["name"] == "paul"
    wrong = {"name": "paul", "password": "another password"}
    statuses = [again.http.post("/api/login", json=wrong).status_code for _ in range(11)]
    assert statuses == [403] * accounts.FAILURES_PER_NAME + [429]
    refused = again.http.post("/api/login", json=body)
    assert refused.status_code == 429 and 0 < int(refused.headers["Retry-After"]) <= 900
    later = time.time() + accounts.WINDOW_SECONDS + 1
    monkeypatch.setattr(accounts.time, "time", lambda: later)
    assert again.http.post("/api/login", json=body).status_code == 200
    nobody = {"name": "no such person", "password": "a long password"}
    assert again.http.post("/api/login", json=nobody).json() == again.http.post("/api/login", json=wrong).json()
    with study.store.read() as connection:
        assert accounts.check_password(connection, "bert", "") is None
    monkeypatch.setattr(accounts, "FAILURES_PER_ADDRESS", 1)
    assert Person(study).join("x", "quin").status_code == 429


def test_who_is_too_fast_waits(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "BURST", 3)
    rosa = Person(study)
    rosa.join(study.token(), "rosa")
    statuses = [rosa.http.post(f"{rosa.path}/begin") for _ in range(5)]
    assert [r.status_code for r in statuses][:3] == [200] * 3 and statuses[-1].status_code == 429
    assert statuses[-1].headers["Retry-After"] == "1"
    assert rosa.http.get(f"{rosa.path}/next").status_code == 200


# ---- blind and closed ------------------------------------------------------------------------------------------------


def test_nothing_sent_to_an_annotator_tells_the_sides_apart(tmp_path: Path) -> None:
    study = Study(tmp_path)
    sent: list[str] = []
    spy = study.person()

    def keep(response: Any) -> Any:
        sent.append(str(response.url) + str(response.headers) + response.content.decode("latin-1"))
        return response

    spy.http.event_hooks["response"] = [lambda response: (response.read(), keep(response))]
    assert spy.join(study.token(), "spy").status_code == 200
    for path in ("/", "/config", "/theme.css", "/openapi.json", "/docs", "/api/nothing", "/gradio_api/info", "/admin"):
        spy.http.get(path)
    page = spy.http.get("/").text
    for script in set(re.findall(r"\./page/[0-9a-f]+/\w+\.js", page)):
        assert spy.http.get(script[1:]).status_code == 200
    spy.http.get(spy.path)
    state = spy.http.post(f"{spy.path}/begin").json()
    count, work = 0, ""
    while state["queue"]:
        item = state["queue"][0]
        assert item["question"] != "flaws" or item["prompt"] is None
        for side in ("left", "right"):
            assert spy.http.get(f"/api/image/{item[side]['key']}").status_code == 200
        assert spy.vote({**item, "assignment": "wrong"}).status_code == 404
        reply = spy.vote(item)
        state, count = reply.json(), count + 1
        if state["phase"] != "training":
            work += reply.text
    spy.undo(state["last"])
    assert count == 2 + 36 + 2 + 4 and len(sent) > 4 * count
    everything = "\n".join(sent)
    identities = [s.id for group in study.arms.groups.values() for s in group]
    hashes = [s.sha256 for group in study.arms.groups.values() for s in group]
    planted = [file.stem for file in (tmp_path / "planted").iterdir()]
    hidden = (*SECRETS, *identities, *hashes, *planted, study.store.secret, "images/", ".sqlite3", str(tmp_path))
    assert [secret for secret in hidden if secret in everything] == []
    assert [word for word in ("gold", "repeat", "purpose", "training", "known", "lease") if word in work] == []


def test_prompts_of_flaws_are_not_sent_at_all(study: Study) -> None:
    sara = Person(study)
    sara.join(study.token(), "sara")
    reply = sara.begin()
    assert {item["question"] for item in reply["queue"]} == {"flaws"} and "a thing" not in json.dumps(reply)


def test_security_headers_hosts_and_gradio_s_own_ways(study: Study) -> None:
    tina = study.lead("tina")
    for path in ("/", "/api/me", "/api/nothing", "/config"):
        headers = tina.http.get(path).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"], path
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers
    for path in ("/gradio_api/file=/etc/passwd", "/file=/etc/passwd", "/gradio_api/proxy=http://127.0.0.1/x"):
        assert tina.http.get(path).status_code == 404, path
    assert tina.http.post("/gradio_api/upload", files={"files": b"x"}).status_code == 404
    for path in ("/gradio_api/queue/join", "/gradio_api/component_server", "/gradio_api/run/predict"):
        assert tina.http.post(path, json={}).status_code == 405, path
    nobody = TestClient(study.app)
    assert nobody.get("/admin/anything", follow_redirects=False).headers["location"] == "/"
    named = TestClient(create_app(study.store, hosts=frozenset({"label.example.org"})))
    assert named.get("/api/me").status_code == 421
    assert named.get("/api/me", headers={"Host": "label.example.org:8443"}).status_code == 401
    https = TestClient(study.app, base_url="https://testserver")
    assert "max-age" in https.get("/api/me").headers["strict-transport-security"]


# ---- known answers ---------------------------------------------------------------------------------------------------


def test_known_answers_are_read_from_csv_and_toml(study: Study, tmp_path: Path) -> None:
    source = study.runs[0] / "images"
    names = sorted(file.name for file in source.iterdir())[:2]
    for name in names:
        (tmp_path / name).write_bytes((source / name).read_bytes())
    a, b = names
    (tmp_path / "known.csv").write_text(
        f"image_a,image_b,question,answer,prompt,why,use\n{a},{b},flaws,a,,broken,training\n"
        f"{a},{b},appeal,tie,a cat,,training\n{a},{b},flaws,b,,,\n"
    )
    training, gold = read_known(tmp_path / "known.csv")
    assert (training.questions, training.known) == (("flaws", "appeal"), {"flaws": "a", "appeal": "tie"})
    assert (training.purpose, training.prompt, gold.purpose, gold.known) == (
        "training",
        "a cat",
        "gold",
        {"flaws": "b"},
    )
    (tmp_path / "known.toml").write_text(
        f'[[pair]]\nimage_a = "{a}"\nimage_b = "{b}"\nquestion = "flaws"\nanswer = "a"\n'
    )
    assert read_known(tmp_path / "known.toml")[0].a.sample == training.a.sample
    wrong = {
        f"{a},{b},flaws,left,,,": "entry 1: answer is 'left'",
        f"{a},{b},beauty,a,,,": "entry 1: question is 'beauty'",
        f"{a},none.png,flaws,a,,,": "entry 1: none.png",
        f"{a},{a},flaws,a,,,": "entry 1: both images are the same",
        f"{a},{b},flaws,a,,,sometimes": "entry 1: use is 'sometimes'",
        "": "holds no pairs",
    }
    for row, message in wrong.items():
        (tmp_path / "known.csv").write_text(f"image_a,image_b,question,answer,prompt,why,use\n{row}\n")
        with pytest.raises(InputError, match=re.escape(message)):
            read_known(tmp_path / "known.csv")
    with pytest.raises(InputError, match="cannot be read"):
        read_known(tmp_path / "missing.csv")


def test_password_of_an_account_made_by_the_lead(study: Study) -> None:
    with study.store.write() as connection:
        add_user(connection, study.store.secret, "uwe", "annotator", hash_password("correct horse"))
    person = Person(study)
    reply = person.http.post("/api/login", json={"name": "uwe", "password": "correct horse"})
    assert reply.status_code == 200 and reply.json()["projects"] == []
