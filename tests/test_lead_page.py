"""The lead's routes and page: who may, what is made, what is shown, and that nothing hostile gets through."""

import io
import json
import os
import shutil
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from lead_study import LeadStudy, always_left, careful

from human_eval_app import lead_html
from human_eval_app.accounts import add_user, enrolment_token, invite
from human_eval_app.judged import judged_pairs
from human_eval_app.lead_api import routes
from human_eval_app.lead_desk import LeadDesk
from human_eval_app.overview import known_answers, overview, per_hour
from human_eval_app.projects import list_projects
from human_eval_app.schedule import Design
from human_eval_app.stopping import StoppingRule, declare, declared
from human_eval_app.ui import create_app
from human_eval_app.web import Server

EVIL = "<img src=x onerror=window.hacked=1> ${window.hacked=2} {{value}} '\"><script>alert(1)</script>"
CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)


class Served:
    """A study with votes, one of whose people has a hostile name, and its application."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.study = LeadStudy(folder, Design(questions=("flaws", "appeal"), repeats=0.1, gold=0.0), prompts=8)
        self.store, self.project = self.study.store, self.study.project
        with self.store.write() as connection:
            connection.execute(sa.text("UPDATE pairs SET prompt = :text"), {"text": EVIL})
            declare(connection, self.project, StoppingRule("sequence", votes=500))
        for name in ("anna", EVIL[:64]):
            self.study.answer(name, careful, marking=True)
        self.study.answer("lefty", always_left)
        self.app = create_app(self.store)

    def browser(self, role: str | None) -> TestClient:
        client = TestClient(self.app)
        if role is not None:
            with self.store.write() as connection:
                project = None if role == "admin" else self.project.id
                token = invite(connection, role, project)  # type: ignore[arg-type]
            name = f"{role} {time.monotonic_ns()}"
            client.headers["X-CSRF-Token"] = client.post("/api/join", json={"token": token, "name": name}).json()[
                "csrf"
            ]
        return client


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return Served(tmp_path_factory.mktemp("lead"))


@pytest.fixture
def lead(served: Served) -> TestClient:
    return served.browser("admin")


@pytest.fixture
def path(served: Served) -> str:
    return f"/api/admin/project/{served.project.id}"


def test_every_route_of_the_lead_is_for_leads_only(served: Served, lead: TestClient) -> None:
    with served.store.read() as connection:
        image = str(connection.execute(sa.text("SELECT key FROM images LIMIT 1")).scalar_one())
    visitors = {None: 401, "annotator": 403}
    clients = {role: served.browser(role) for role in visitors}
    found = [(method, route.path) for route in routes.routes for method in route.methods]  # type: ignore[attr-defined]
    assert len(found) == 8
    for method, template in found:
        address = template.format(project=served.project.id, name="votes.jsonl", key=image)
        for role, expected in visitors.items():
            reply = clients[role].request(method, address, json={} if method == "POST" else None)
            assert reply.status_code == expected, (method, template, role)
        if method == "POST":
            assert lead.request(method, address, json={}, headers={"X-CSRF-Token": "x"}).status_code == 403
        else:
            assert lead.request(method, address).status_code == 200, template
            assert (
                lead.request(method, address.replace(served.project.id, "0" * 24).replace(image, "0")).status_code
                == 404
            )
    for address in ("/admin/", "/admin/config", "/admin/gradio_api/info", "/admin/gradio_api/queue/join"):
        for client in clients.values():
            assert client.get(address, follow_redirects=False).status_code == 303
            assert client.post(address, json={}, follow_redirects=False).status_code == 303
    assert lead.get("/admin", follow_redirects=True).status_code == 200


def test_the_overview_says_how_the_study_stands(served: Served, lead: TestClient, path: str) -> None:
    seen = lead.get(f"{path}/overview").json()
    assert seen["done"] == 3 * 16 and seen["answers"] > seen["done"] and seen["wanted"] is None
    assert sum(count for _, count in seen["per_hour"]) == seen["answers"]
    flaws = next(c for c in seen["comparisons"] if c["result"]["rates"]["question"] == "flaws")
    assert flaws["result"]["rates"]["net"]["value"] > 0 and flaws["half_width"] > 0
    people = {quality["annotator"]: quality for quality in seen["qualities"]}
    assert set(people) == {"anna", EVIL[:64], "lefty"} and people["lefty"]["flags"]
    assert seen["look"]["wanted"] == 500 and seen["stopping"]["rule"]["labels"] == ["basemodel", "tunedmodel"]


def test_hours_without_an_answer_are_hours() -> None:
    times = [f"2026-01-01T{hour:02d}:30:00.000+00:00" for hour in (1, 1, 4)]
    assert per_hour(times) == (("2026-01-01T01", 2), ("2026-01-01T02", 0), ("2026-01-01T03", 0), ("2026-01-01T04", 1))
    assert per_hour(times, hours=2) == (("2026-01-01T03", 0), ("2026-01-01T04", 1)) and per_hour([]) == ()


def test_contested_pairs_come_first_with_everybodys_marks(served: Served, lead: TestClient, path: str) -> None:
    with served.store.read() as connection:
        pairs = judged_pairs(connection, served.store.secret, served.project, "flaws", limit=100)
        marked = judged_pairs(connection, served.store.secret, served.project, "flaws", "marked", limit=100)
        assert known_answers(connection, served.project.id) == {}
    shares = [pair.disagreement for pair in pairs]
    assert shares == sorted(shares, reverse=True) and 0 < shares[-1] <= shares[0] <= 1
    assert {len(pair.opinions) for pair in pairs} == {3}
    assert len(marked) == 8 and all(pair.mark_count == 4 for pair in marked)
    # Marks are on the image that they were made on, whichever side it was on.
    both = {(len(o.marks[0]), len(o.marks[1])) for pair in marked for o in pair.opinions if o.annotator == "anna"}
    assert both == {(1, 1)}
    image = lead.get(f"/api/admin/image/{pairs[0].keys[0]}")
    assert image.headers["content-type"] == "image/png" and image.content[:4] == b"\x89PNG"
    assert len(lead.get(f"{path}/judged", params={"order": "marked", "limit": 2, "skip": 7}).json()) == 1
    assert lead.get(f"{path}/judged", params={"question": "beauty"}).status_code == 422


def test_exports_by_the_page_are_those_of_the_command_line(served: Served, lead: TestClient, path: str) -> None:
    lines = lead.get(f"{path}/export/votes.jsonl").text.splitlines()
    assert [json.loads(line)["id"] for line in lines] == [vote.id for vote in served.store.votes()]
    reply = lead.get(f"{path}/export/study.zip", params={"ties": "half", "min_votes": 2})
    assert 'filename="study.zip"' in reply.headers["content-disposition"]
    names = zipfile.ZipFile(io.BytesIO(reply.content)).namelist()
    assert {"study/votes.parquet", "study/study.json", "study/pairs/preference/train.parquet"} <= set(names)
    assert sum(name.startswith("study/flaw-maps/") for name in names) == 16
    assert lead.get(f"{path}/export/secret.txt").status_code == 422


def test_a_project_is_made_of_runs_below_the_working_folder(
    served: Served, lead: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(served.folder)
    runs = [run.name for run in served.study.runs]
    body = {"name": "second", "runs": runs, "questions": ["flaws"], "votes_per_pair": 2, "guideline": "Look."}
    rules = {"stopping": {"kind": "fixed", "votes": 10}, "exclusion": {"gold_below": 0.7}}
    reply = lead.post("/api/admin/projects", json={**body, **rules})
    assert reply.status_code == 200, reply.text
    with served.store.read() as connection:
        made = next(p for p in list_projects(connection) if p.name == "second")
        kept = declared(connection, made.id)
    assert (made.guideline, made.design.votes_per_pair, made.design.questions) == ("Look.", 2, ("flaws",))
    assert kept is not None and kept.rule.votes == 10 and kept.rule.labels == ("basemodel", "tunedmodel")
    refused = [
        ({}, "already"),
        ({"name": "x", "runs": ["../.."]}, "not below"),
        ({"name": "x", "runs": ["/etc"]}, "not below"),
        ({"name": "x", "prompts": "/etc/passwd"}, "not below"),
        ({"name": "x", "runs": runs[:1]}, "two sets"),
        ({"name": "x", "stopping": {"kind": "fixed", "votes": 1, "question": "appeal"}}, "is not asked"),
        ({"name": "x", "repeats": 0.9}, "shares of repeats"),
    ]
    for changes, words in refused:
        reply = lead.post("/api/admin/projects", json={**body, **changes})
        assert reply.status_code == 422 and words in reply.text, reply.text
    for changes in ({"colour": 1}, {"name": ""}, {"stopping": {"kind": "fixed"}}, {"stopping": {"kind": "psychic"}}):
        assert lead.post("/api/admin/projects", json={**body, "name": "x", **changes}).status_code == 422
    with served.store.read() as connection:
        assert {p.name for p in list_projects(connection)} == {"study", "second"}


def test_members_are_admitted_and_accounts_closed(served: Served, lead: TestClient, path: str) -> None:
    with served.store.write() as connection:
        add_user(connection, served.store.secret, "dora")
    assert lead.post(f"{path}/member", json={"name": "nobody"}).status_code == 404
    members = lead.post(f"{path}/member", json={"name": "Dora"}).json()
    assert "dora" in {member["name"] for member in members}
    person = served.browser("annotator")
    name = person.get("/api/me").json()["name"]
    assert lead.post("/api/admin/account", json={"name": name, "closed": True}).json()["closed"]
    assert person.get("/api/me").status_code == 401
    lead.post("/api/admin/account", json={"name": name, "closed": False})
    assert person.get("/api/me").status_code == 200
    own = lead.get("/api/me").json()["name"]
    assert lead.post("/api/admin/account", json={"name": own, "closed": True}).status_code == 403


# ---- the page --------------------------------------------------------------------------------------------------------


def test_the_page_escapes_what_people_wrote(served: Served) -> None:
    desk = LeadDesk(Server(served.store, None))  # type: ignore[arg-type]
    project = served.project.id
    shown = "".join(desk.show(project)) + desk.pairs(project, "flaws", "marked", 1) + desk.members(project)
    assert "&lt;img src=x" in shown and "<img src=x" not in shown and "<script" not in shown
    # What scrolls can be reached by the keyboard, and has a name.
    reached = shown.count('class="ld-scroll" tabindex="0" role="region" aria-label="')
    assert shown.count('class="ld-scroll"') == reached == 4
    assert shown.count('class="ld-prompt"') == shown.count('class="ld-prompt" tabindex="0"') > 0
    assert shown.count("ld-mark") >= 16 and "../api/admin/image/" in shown
    assert "${" not in shown and "{{" not in shown
    assert "<b>" not in lead_html.note("<b>") and "<b>" not in lead_html.link_box("<b>", "<b>")
    for value in (None, 5, [], {"x": 1}, "0" * 24, EVIL):
        assert "Make a project first" in desk.show(value)[0]
        assert "Choose a project" in desk.pairs(value, "flaws", "contested", 1)
        assert "Choose a project" in desk.toggle(value) and "Choose" in desk.admit(value, "anna")
        assert "<img src=x" not in desk.admit(project, EVIL) + desk.close(project, EVIL)
    assert "Choose" in desk.pairs(project, EVIL, "contested", 1) and "Not made" in desk.make(*[None] * 15)[1]


def test_the_dashboard_follows_votes_and_the_state(served: Served) -> None:
    desk = LeadDesk(Server(served.store, None), share=0)  # type: ignore[arg-type]
    before = desk.show(served.project.id)[0]
    assert "48" in before and "open" in before
    assert "is paused" in desk.toggle(served.project.id) and "paused" in desk.show(served.project.id)[0]
    assert "is open" in desk.toggle(served.project.id)
    served.study.answer("late", careful, most=3)
    assert "51" in desk.show(served.project.id)[0]
    # A large study is not computed again at every tick.
    slow = LeadDesk(Server(served.store, None), share=1e6)  # type: ignore[arg-type]
    assert "51" in slow.show(served.project.id)[0]
    served.study.answer("late", careful, most=1)
    assert "51" in slow.show(served.project.id)[0]


@pytest.fixture
def address(served: Served) -> Iterator[str]:
    import uvicorn

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(served.app, port=port, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


@pytest.mark.skipif(CHROMIUM is None and "CI" not in os.environ, reason="no Chromium (with CI set this fails instead)")
def test_a_lead_watches_and_invites_in_a_browser(served: Served, address: str) -> None:
    from playwright.sync_api import expect, sync_playwright

    with served.store.write() as connection:
        token = invite(connection, "admin", None)
    mistakes: list[Any] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(viewport={"width": 390, "height": 844})
        context.set_default_timeout(20_000)
        context.on("weberror", lambda error: mistakes.append(str(error.error)))
        page = context.new_page()
        page.goto(f"{address}/#join={token}")
        page.get_by_label("Your name").fill("browser lead")
        page.keyboard.press("Enter")
        page.wait_for_url("**/admin/")
        expect(page.locator(".ld-cards")).to_contain_text("answers about pairs")
        page.get_by_label("Project").click()
        page.get_by_role("option", name="study").click()
        expect(page.locator(".ld-forest")).to_have_count(2)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.set_viewport_size({"width": 1440, "height": 900})
        page.get_by_role("tab", name="People").click()
        expect(page.locator(".ld-flag").first).to_contain_text("side bias: left")
        page.get_by_role("button", name="Show the open link").click()
        link = f"{address}/#join={enrolment_token(served.store.secret, served.project)}"
        expect(page.locator(".ld-link")).to_have_text(link)
        page.get_by_role("tab", name="Pairs").click()
        page.get_by_role("button", name="Show pairs").click()
        picture = page.locator(".ld-pair img").first
        page.wait_for_function("(image) => image.complete && image.naturalWidth === 64", arg=picture.element_handle())
        assert page.evaluate("window.hacked") is None and mistakes == []
        browser.close()
    with served.store.read() as connection:
        assert overview(connection, served.store.secret, served.project).answers > 0
