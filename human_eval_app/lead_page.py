"""The lead's page, ``/admin/``: set up studies, watch them, take them home. In Gradio, behind the app's own session.

:class:`human_eval_app.guard.Guard` lets only leads near it. It has no components for files and shows no text from
outside except through :mod:`human_eval_app.lead_html`.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import sqlalchemy as sa

from human_eval_app import lead_html
from human_eval_app.accounts import enrolment_token, find_user, invite
from human_eval_app.exclusion import ExclusionRule
from human_eval_app.judged import judged_pairs
from human_eval_app.lead_api import NewStudy, close_account, list_members, make_study
from human_eval_app.overview import Overview, overview
from human_eval_app.planner import PlanStudyConfig, expected_effect, study_plans
from human_eval_app.projects import Project, add_member, find_project, list_projects, renew_enrolment, set_state
from human_eval_app.schema import projects
from human_eval_app.stopping import StoppingRule
from human_eval_app.texts import QUESTION_TEXTS
from human_eval_app.web import Server
from pixeval.errors import InputError
from pixeval.records import QUESTIONS

REFRESH_SECONDS = 20
SHARE = 10
"""A dashboard is not computed again for so many times as long as it took."""
PAIRS = 12
"""On one page of the browser of pairs."""
IMAGES = "../api/admin/image/"
STYLE = Path(__file__).with_name("lead.css")


def lead_head() -> str:
    """For the page's head."""
    return f"<style>{STYLE.read_text(encoding='utf-8')}</style>"


def lead_page(server: Server) -> gr.Blocks:
    """The page over all projects of a server."""
    desk = LeadDesk(server)
    with gr.Blocks(title="Studies", analytics_enabled=False) as page:
        _html('<div class="ld-head"><h1>Studies</h1><a href="../">Compare images</a></div>')
        with gr.Row(equal_height=False):
            chosen = gr.Dropdown(choices=[], label="Project", scale=4, min_width=200)
            toggle = _button("Pause or open", scale=0, min_width=150)
        said = _html()
        with gr.Tab("Results"):
            shown = [_html() for _ in range(4)]
        with gr.Tab("People"):
            shown.append(_html())
            _people_tab(desk, chosen)
        with gr.Tab("Pairs"):
            _pairs_tab(desk, chosen)
        with gr.Tab("Export"):
            _export_tab(chosen)
        with gr.Tab("New project"):
            _new_tab(desk, chosen)
        with gr.Tab("Plan"):
            _plan_tab()
        page.load(desk.choose, None, chosen).then(desk.show, chosen, shown)
        chosen.change(desk.show, chosen, shown, show_progress="hidden")
        toggle.click(desk.toggle, chosen, said).then(desk.show, chosen, shown, show_progress="hidden")
        gr.Timer(REFRESH_SECONDS).tick(desk.show, chosen, shown, show_progress="hidden")
    return page


def _html(value: str = "") -> gr.HTML:
    """A place for HTML of :mod:`human_eval_app.lead_html`, in the page's own style."""
    return gr.HTML(value, apply_default_css=False)


def _button(text: str, **more: Any) -> gr.Button:
    """A button as high as its text, beside fields that are higher."""
    return gr.Button(text, elem_classes="ld-act", **more)


@dataclass(frozen=True)
class _Seen:
    answers: int
    state: str
    until: float
    """Not computed again before this, by the monotonic clock."""
    overview: Overview


class LeadDesk:
    """What the page's events do; every value may be anything, since it comes from a browser."""

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
        return lead_html.link_box(f"For {whom}; works once, within two weeks:", f"{_origin(request)}/#join={token}")

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
        """Make a project of the form's values, in the order of :func:`_new_tab`."""
        try:
            body = _study(values)
            made = make_study(self._server.store, body, Path.cwd())
        except (InputError, ValueError, TypeError) as error:
            return gr.skip(), lead_html.note(f"Not made: {_first_line(error)}", "bad")
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


def _people_tab(desk: LeadDesk, chosen: gr.Dropdown) -> None:
    with gr.Accordion("Invite and admit", open=True):
        with gr.Row(equal_height=False):
            name = gr.Textbox(label="Name of somebody with an account", max_length=64, scale=3, min_width=200)
            invited = _button("One-time link", scale=0, min_width=130)
            admitted = _button("Admit", scale=0, min_width=100)
            closed = _button("Close account", scale=0, min_width=130)
            reopened = _button("Open account", scale=0, min_width=130)
        with gr.Row(equal_height=False):
            link = _button("Show the open link", min_width=160)
            renewed = _button("Make a new open link", min_width=160)
            listed = _button("List members", min_width=130)
        answer = _html()
    quiet = {"show_progress": "hidden"}
    invited.click(desk.invitation, [chosen, name], answer, **quiet)
    admitted.click(desk.admit, [chosen, name], answer, **quiet)
    closed.click(desk.close, [chosen, name], answer, **quiet)
    reopened.click(desk.reopen, [chosen, name], answer, **quiet)
    link.click(desk.open_link, chosen, answer, **quiet)
    renewed.click(desk.new_link, chosen, answer, **quiet)
    listed.click(desk.members, chosen, answer, **quiet)


def _pairs_tab(desk: LeadDesk, chosen: gr.Dropdown) -> None:
    with gr.Row(equal_height=False):
        titles = [(QUESTION_TEXTS[question].title, question) for question in QUESTIONS]
        question = gr.Dropdown(titles, value="flaws", label="Question", scale=2, min_width=200)
        orders = [("Most contested", "contested"), ("Most flaws marked", "marked")]
        order = gr.Dropdown(orders, value="contested", label="First", scale=2, min_width=180)
        page = gr.Number(1, label="Page", minimum=1, precision=0, scale=1, min_width=90)
        look = _button("Show pairs", variant="primary", scale=0, min_width=130)
    found = _html()
    wanted = [chosen, question, order, page]
    look.click(desk.pairs, wanted, found, show_progress="minimal")
    for one in (question, order, page):
        one.change(desk.pairs, wanted, found, show_progress="hidden")


def _export_tab(chosen: gr.Dropdown) -> None:
    with gr.Row(equal_height=False):
        policies = [("left out", "drop"), ("half a vote for each", "half")]
        ties = gr.Dropdown(policies, value="drop", label="Ties in pairs", min_width=180)
        votes = gr.Number(1, label="Votes that a pair needs", minimum=1, precision=0, min_width=160)
        exclude = gr.Checkbox(False, label="Leave out annotators by the declared rule", min_width=220)
    files = _html()
    wanted = [chosen, ties, votes, exclude]
    for one in wanted:
        one.change(_downloads, wanted, files, show_progress="hidden")


def _downloads(chosen: Any, ties: Any, votes: Any, exclude: Any) -> str:
    if not isinstance(chosen, str):
        return lead_html.note("Choose a project.")
    policy = "half" if ties == "half" else "drop"
    return lead_html.downloads(chosen, policy, max(1, int(votes or 1)), bool(exclude))


def _new_tab(desk: LeadDesk, chosen: gr.Dropdown) -> None:
    with gr.Row():
        name = gr.Textbox(label="Name, for you", placeholder="sft-against-base", max_length=128)
        title = gr.Textbox("Compare images", label="Title, for annotators: name no model", max_length=200)
    runs = gr.Textbox(
        label="Runs or folders of images, one a line, below the folder in which the server was started",
        placeholder="work/base\nwork/tuned:step-000400",
        lines=2,
    )
    prompts = gr.Textbox(label="For folders: .csv or .jsonl with file_name and prompt", max_length=500)
    titles = [(QUESTION_TEXTS[question].title, question) for question in QUESTIONS]
    questions = gr.CheckboxGroup(titles, value=list(QUESTIONS), label="Questions")
    guideline = gr.Textbox(label="Guideline; empty: the usual one", lines=4)
    with gr.Row():
        overlap = gr.Number(5, label="Votes per pair; 0: everybody judges everything", minimum=0, precision=0)
        repeats = gr.Slider(0, 0.3, 0.05, step=0.01, label="Share of swapped repeats")
        gold = gr.Slider(0, 0.3, 0.1, step=0.01, label="Share of gold pairs")
        planted = gr.Number(0, label="Gold pairs with a planted flaw", minimum=0, precision=0)
    with gr.Accordion("Declared before the first answer", open=False):
        with gr.Row():
            kinds = [
                ("when all work is done", "none"),
                ("after so many votes", "fixed"),
                ("when a sequence decides", "sequence"),
            ]
            kind = gr.Dropdown(kinds, value="none", label="Stops")
            limit = gr.Number(1000, label="Votes, at the latest", minimum=1, precision=0)
            asked = gr.Dropdown(titles, value="flaws", label="On the question")
        with gr.Row():
            below = gr.Slider(0, 1, 0, step=0.05, label="Exclude who passes less of the gold pairs; 0: nobody")
            above = gr.Slider(0.5, 1, 1, step=0.05, label="Exclude who gives one side more often; 1: nobody")
    make = gr.Button("Make the project", variant="primary")
    said = _html()
    fields = [name, title, runs, prompts, questions, guideline, overlap, repeats, gold, planted]
    make.click(desk.make, [*fields, kind, limit, asked, below, above], [chosen, said])


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


def _plan_tab() -> None:
    with gr.Row():
        decisive = gr.Slider(0.51, 0.9, 0.6, step=0.01, label="Wins among wins and losses worth finding")
        ties = gr.Slider(0, 0.8, 0.2, step=0.05, label="Expected ties")
        agreement = gr.Slider(0.3, 1, 0.55, step=0.05, label="Two people give the same answer")
    with gr.Row():
        tastes = gr.Slider(0, 0.2, 0.02, step=0.01, label="Correlation of one person's votes (tastes)")
        power = gr.Slider(0.5, 0.99, 0.8, step=0.01, label="Chance of finding it")
        questions = gr.Slider(1, 3, 3, step=1, label="Questions")
        seconds = gr.Slider(2, 60, 8, step=1, label="Seconds per answer")
    table = _html(_plans(0.6, 0.2, 0.55, 0.02, 0.8, 3, 8))
    fields = [decisive, ties, agreement, tastes, power, questions, seconds]
    for field in fields:
        field.change(_plans, fields, table, show_progress="hidden")


def _plans(*values: Any) -> str:
    try:
        decisive, ties, agreement, tastes, power, questions, seconds = (float(value) for value in values)
        config = PlanStudyConfig(
            decisive=decisive,
            ties=ties,
            agreement=agreement,
            annotator_icc=tastes,
            power=power,
            questions=int(questions),
            seconds=seconds,
        )
        return lead_html.plans_table(study_plans(expected_effect(config), config))
    except (InputError, TypeError, ValueError) as error:
        return lead_html.note(_first_line(error), "bad")


def _origin(request: gr.Request) -> str:
    """Where the lead's browser reaches the app; requests that change something carry it."""
    return str(request.headers.get("origin", "")).rstrip("/")


def _first_line(error: Exception) -> str:
    errors = getattr(error, "errors", None)
    if callable(errors):
        first = errors()[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    return str(error)
