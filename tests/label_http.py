"""A served study, and people who use it over HTTP without a browser."""

from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from label_study import two_runs

from human_eval_app.accounts import enrolment_token, invite
from human_eval_app.known import planted_pairs
from human_eval_app.projects import Project, find_project
from human_eval_app.schedule import Design, match_samples
from human_eval_app.store import Store
from human_eval_app.study import Arms, open_study, read_arms
from human_eval_app.ui import create_app

EVIL = "<script>alert(1)</script> '; DROP TABLE users; -- \u202e {{7*7}}"


class Study:
    """A served study."""

    def __init__(self, folder: Path, design: Design = Design(gold=0.2), training: int = 2) -> None:  # noqa: B008
        self.runs = two_runs(folder)
        self.arms: Arms = read_arms(self.runs)
        matchups = match_samples(self.arms.groups)
        known = [
            *planted_pairs(self.arms, matchups, 4, "gold", folder / "planted", 0),
            *planted_pairs(self.arms, matchups, training, "training", folder / "planted", 0),
        ]
        self.store = Store.at(folder / "db" / "votes.sqlite3")
        self.project: Project = open_study(self.store, self.arms, design, known=known)
        self.other = open_study(self.store, self.arms, design, name="other")
        self.app = create_app(self.store)

    def person(self, name: str | None = None, project: Project | None = None) -> "Person":
        person = Person(self)
        if name is not None:
            assert person.join(self.token(project or self.project), name).status_code == 200
        return person

    def token(self, project: Project | None = None) -> str:
        """Of the open enrolment link that holds now."""
        with self.store.read() as connection:
            found = find_project(connection, (project or self.project).id)
        assert found is not None
        return enrolment_token(self.store.secret, found)

    def lead(self, name: str) -> "Person":
        with self.store.write() as connection:
            token = invite(connection, "admin", None)
        person = Person(self)
        assert person.join(token, name).json()["role"] == "admin"
        return person


class Person:
    """A browser of its own."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.http = TestClient(study.app)
        self.path = f"/api/project/{study.project.id}"

    def join(self, token: str, name: str, **more: Any) -> Any:
        reply = self.http.post("/api/join", json={"token": token, "name": name, **more})
        if reply.status_code == 200:
            self.http.headers["X-CSRF-Token"] = reply.json()["csrf"]
        return reply

    def begin(self) -> dict[str, Any]:
        state: dict[str, Any] = self.http.post(f"{self.path}/begin").json()
        while state["phase"] == "training":
            state = self.vote(state["queue"][0]).json()
        return state

    def vote(self, item: dict[str, Any], choice: str = "left", **more: Any) -> Any:
        body = {"assignment": item["assignment"], "revision": item["revision"], "choice": choice, "seconds": 1.0}
        return self.http.post(f"{self.path}/vote", json={**body, **more})

    def undo(self, last: dict[str, Any]) -> Any:
        return self.http.post(f"{self.path}/undo", json=last)
