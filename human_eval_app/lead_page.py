"""The lead's page, ``/admin/``: set up studies, watch them, take them home. In Gradio, behind the app's own session.

:class:`human_eval_app.guard.Guard` lets only leads near it. It has no components for files and shows no text from
outside except through :mod:`human_eval_app.lead_html`.
"""

from pathlib import Path
from typing import Any

import gradio as gr

from human_eval_app import lead_html
from human_eval_app.lead_desk import LeadDesk, first_line
from human_eval_app.planner import PlanStudyConfig, expected_effect, study_plans
from human_eval_app.texts import QUESTION_TEXTS
from human_eval_app.web import Server
from pixeval.errors import InputError
from pixeval.records import QUESTIONS

REFRESH_SECONDS = 20
STYLE = Path(__file__).with_name("lead.css")


def lead_head() -> str:
    """For the page's head."""
    return f"<style>{STYLE.read_text(encoding='utf-8')}</style>"


def lead_page(server: Server) -> gr.Blocks:
    """The page over all projects of a server."""
    desk = LeadDesk(server)
    with gr.Blocks(title="Studies", analytics_enabled=False, fill_width=True) as page:
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


def _people_tab(desk: LeadDesk, chosen: gr.Dropdown) -> None:
    with gr.Accordion("Invite and admit", open=True):
        with gr.Row(equal_height=False):
            name = gr.Textbox(label="Name of somebody with an account", max_length=64, scale=3, min_width=200)
            invited = _button("One-time link", scale=0, min_width=150)
            admitted = _button("Admit", scale=0, min_width=100)
            closed = _button("Close account", scale=0, min_width=150)
            reopened = _button("Open account", scale=0, min_width=150)
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
        name = gr.Textbox(label="Name, for you", placeholder="sft-against-base", max_length=128, min_width=240)
        title = gr.Textbox(
            "Compare images", label="Title, for annotators: name no model", max_length=200, min_width=240
        )
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
        return lead_html.note(first_line(error), "bad")
