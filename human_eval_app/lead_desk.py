"""What a lead does on their page, apart from how it looks; every value may be anything, since a browser sends it."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
import sqlalchemy as sa

from human_eval_app import lead_html
from human_eval_app.accounts import enrolment_token, find_user, invite
from human_eval_app.exclusion import ExclusionRule
from human_eval_app.judged import judged_pairs
from human_eval_app.lead_api import NewStudy, close_account, list_members, make_study
from human_eval_app.overview import Overview, overview
from human_eval_app.projects import Project, add_member, find_project, list_projects, renew_enrolment, set_state
from human_eval_app.schema import projects
from human_eval_app.stopping import StoppingRule
from human_eval_app.web import Server
from pixeval.errors import InputError
from pixeval.records import QUESTIONS

SHARE = 10
"""A dashboard is not computed again for so many times as long as it took."""
PAIRS = 12
"""On one page of the browser of pairs."""
IMAGES = "../api/admin/image/"


@dataclass(frozen=True)
class _Seen:
    answers: int
    state: str
    until: float
    """Not computed again before this, by the monotonic clock."""
    overview: Overview


class LeadDesk:
    """The events of :func:`human_eval_app.lead_page.lead_page`."""

    def __init__(self, server: Server, share: float = SHARE) -> None:
        self._server = server
        self._share = share
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}

    def choose(self) -> Any:
        """All projects to choose from, the newest chosen."""
        with self._server.store.read() as connection:
            there = list_projects(connection)
        return gr.Dropdown(choices=[(p.name, p.id) for p in there], value=there[-1].id if there else None)

    def show(self, chosen: Any) -> list[str]:
        """Results in four parts, and people."""
        found = self._find(chosen)
        if found is None:
            return [lead_html.note("Make a project first, under New project."), "", "", "", ""]
        seen = self._overview(found)
        return [
            lead_html.figures_row(seen, found.state) + lead_html.stopping_box(seen.stopping, seen.look, found.state),
            lead_html.comparisons_table(seen.comparisons),
            lead_html.hours_chart(seen.per_hour),
            lead_html.agreement_table(seen),
            lead_html.people_table(seen.qualities, seen.excluded),
        ]

    def toggle(self, chosen: Any) -> str:
        """Pause an open project, or open a paused one."""
        found = self._find(chosen)
        if found is None:
            return lead_html.note("Choose a project.", "bad")
        state = "paused" if found.state == "open" else "open"
        with self._server.store.write() as connection:
            set_state(connection, found.id, "paused" if found.state == "open" else "open")
        return lead_html.note(f"{found.name} is {state}.", "good")

    def pairs(self, chosen: Any, question: Any, order: Any, page: Any) -> str:
        """One page of pairs with images and marks."""
        found = self._find(chosen)
        if found is None or question not in QUESTIONS or order not in ("contested", "marked"):
            return lead_html.note("Choose a project.")
        skip = PAIRS * max(0, int(page or 1) - 1)
        with self._server.store.read() as connection:
            secret = self._server.store.secret
            pairs = judged_pairs(connection, secret, found, question, order, PAIRS, skip)
        return f'<div class="ld-pairs">{lead_html.judged_list(pairs, IMAGES)}</div>'

    def members(self, chosen: Any) -> str:
        """Who may judge the project."""
        found = self._find(chosen)
        if found is None:
            return ""
        with self._server.store.read() as connection:
            return lead_html.members_table(list_members(connection, found.id))

    def new_link(self, chosen: Any, request: gr.Request) -> str:
        """A new open enrolment link, which makes the ones before worthless."""
        found = self._find(chosen)
        if found is not None:
            with self._server.store.write() as connection:
                renew_enrolment(connection, found.id)
        return self.open_link(chosen, request)

    def open_link(self, chosen: Any, request: gr.Request) -> str:
        """The open enrolment link."""
        found = self._find(chosen)
        if found is None:
            return lead_html.note("Choose a project.", "bad")
        link = f"{_origin(request)}/#join={enrolment_token(self._server.store.secret, found)}"
        return lead_html.link_box("Anybody with this address may join under a name of their own:", link)

    def invitation(self, chosen: Any, name: Any, request: gr.Request) -> str:
        """A link that works once, for a new account or for somebody who has one."""
        found, name = self._find(chosen), str(name or "").strip()[:64]
        if found is None:
            return lead_html.note("Choose a project.", "bad")
        with self._server.store.write() as connection:
            user = find_user(connection, name) if name else None
            if name and user is None:
                return lead_html.note(f"Nobody is called {name}; leave the name empty to invite somebody new.", "bad")
            token = invite(connection, user.role if user else "annotator", found.id, user.id if user else None)
        whom = user.name if user else "somebody new"
        link = f"{_origin(request)}/#join={token}" + (f"&name={quote(user.name)}" if user else "")
        return lead_html.link_box(f"For {whom}; works once, within two weeks:", link)

    def admit(self, chosen: Any, name: Any) -> str:
        """Let somebody with an account judge the project."""
        return self._with_person(chosen, name, lambda c, project, user: add_member(c, project.id, user.id), "may judge")

    def close(self, chosen: Any, name: Any) -> str:
        """Close somebody's account; their votes stay."""
        return self._with_person(chosen, name, lambda c, _, user: close_account(c, user.id, True), "cannot sign in")

    def reopen(self, chosen: Any, name: Any) -> str:
        """Open a closed account again."""
        return self._with_person(chosen, name, lambda c, _, user: close_account(c, user.id, False), "may sign in again")

    def make(self, *values: Any) -> tuple[Any, str]:
        """Make a project of the form's values, in the order of the form."""
        try:
            body = _study(values)
            made = make_study(self._server.store, body, Path.cwd())
        except (InputError, ValueError, TypeError) as error:
            return gr.skip(), lead_html.note(f"Not made: {first_line(error)}", "bad")
        with self._server.store.read() as connection:
            there = [(p.name, p.id) for p in list_projects(connection)]
        done = lead_html.note(f"{made.name} is open. Invite people under People.", "good")
        return gr.Dropdown(choices=there, value=made.id), done

    def _with_person(self, chosen: Any, name: Any, act: Callable[[Any, Project, Any], None], done: str) -> str:
        found, name = self._find(chosen), str(name or "").strip()
        if found is None or not name:
            return lead_html.note("Choose a project and give a name.", "bad")
        with self._server.store.write() as connection:
            user = find_user(connection, name)
            if user is None:
                return lead_html.note(f"Nobody is called {name}.", "bad")
            if user.role == "admin":
                return lead_html.note(f"{user.name} is a lead.", "bad")
            act(connection, found, user)
        return lead_html.note(f"{user.name} {done}.", "good")

    def _find(self, chosen: Any) -> Project | None:
        if not isinstance(chosen, str):
            return None
        with self._server.store.read() as connection:
            return find_project(connection, chosen)

    def _overview(self, project: Project) -> Overview:
        """What was computed last, as long as nobody has answered since or it took long a short while ago."""
        query = sa.select(projects.c.answers).where(projects.c.id == project.id)
        with self._lock, self._server.store.read() as connection:
            answers = connection.execute(query).scalar_one()
            kept, began = self._seen.get(project.id), time.monotonic()
            if kept is None or ((kept.answers != answers or kept.state != project.state) and began > kept.until):
                found = overview(connection, self._server.store.secret, project)
                done = time.monotonic()
                kept = _Seen(answers, project.state, done + self._share * (done - began), found)
                self._seen[project.id] = kept
        return kept.overview


def _study(values: tuple[Any, ...]) -> NewStudy:
    """The form's values as a new study.

    Raises:
        ValueError: one is not what it should be.
    """
    name, title, runs, prompts, questions, guideline, overlap, repeats, gold, planted = values[:10]
    kind, limit, asked, below, above = values[10:]
    stopping = StoppingRule() if kind == "none" else StoppingRule(kind, int(limit), asked)
    exclusion = ExclusionRule(float(below) or None, side_above=float(above) if float(above) < 1 else None)
    return NewStudy.model_validate(
        {
            "name": str(name).strip(),
            "title": str(title).strip(),
            "runs": [line.strip() for line in str(runs).splitlines() if line.strip()],
            "prompts": str(prompts or "").strip() or None,
            "questions": [question for question in QUESTIONS if question in questions],
            "guideline": str(guideline or ""),
            "votes_per_pair": int(overlap),
            "repeats": repeats,
            "gold": gold,
            "planted_gold": int(planted),
            "stopping": stopping,
            "exclusion": exclusion,
        }
    )


def _origin(request: gr.Request) -> str:
    """Where the lead's browser reaches the app; requests that change something carry it."""
    return str(request.headers.get("origin", "")).rstrip("/")


def first_line(error: Exception) -> str:
    """What is wrong, in one line."""
    errors = getattr(error, "errors", None)
    if callable(errors):
        first = errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return str(error)
