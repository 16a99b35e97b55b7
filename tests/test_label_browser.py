"""The labelling page in a real browser: invitation, practice, keys, marks, zoom, tabs, lost connection, phone."""

import os
import re
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from label_app import CHECKS, PAIRS, LabelApp
from label_study import SECRETS

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ, reason="no Chromium is installed (with CI set this fails instead)"
)
GUARD_MS = 300
"""A little longer than the page ignores answers after a new pair."""
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelApp]:
    app = LabelApp(tmp_path_factory.mktemp("label"))
    yield app
    if app.process.poll() is None:
        app.process.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    assert CHROMIUM is not None, "CI is set but no Chromium is installed"
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page in a browser of its own; a mistake in the page's scripts fails the test."""
    contexts, mistakes = [], []

    def visit(**options: Any) -> Any:
        context = browser.new_context(**({"viewport": {"width": 1440, "height": 900}} | options))
        context.set_default_timeout(15_000)
        context.on("weberror", lambda error: mistakes.append(str(error.error)))
        contexts.append(context)
        return context.new_page()

    yield visit
    for context in contexts:
        context.close()
    assert mistakes == []


def join(page: Any, app: LabelApp, name: str) -> None:
    """Come in by the open invitation, to the introduction."""
    page.goto(app.link())
    page.get_by_label("Your name").fill(name)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Begin").wait_for()


def work(page: Any, app: LabelApp, name: str, study: str = "study", password: str | None = None) -> None:
    """Open the page as somebody who has read the introduction and practised."""
    cookie = {"name": "pixeval_session", "value": app.enter(name, study, password), "url": app.url}
    page.context.add_cookies([cookie])
    page.goto(app.url)
    settle(page)


def settle(page: Any) -> str:
    """Wait for a pair, past the guard against double presses; which pair it is."""
    page.locator(".pe-desk[data-shown] figure img").nth(1).wait_for()
    page.wait_for_timeout(GUARD_MS)
    shown: str = page.locator(".pe-desk").get_attribute("data-shown")
    return shown


def counted(page: Any, done: int) -> None:
    """Wait until the progress says so and a pair is there."""
    from playwright.sync_api import expect

    expect(page.locator(".pe-count")).to_have_text(re.compile(rf"^{done} of {3 * PAIRS}$"))
    settle(page)


def judge(page: Any, key: str) -> str:
    """Press an answer's key and wait for the next pair; which pair that is."""
    before = page.locator(".pe-desk").get_attribute("data-shown")
    page.keyboard.press(key)
    page.wait_for_function("before => document.querySelector('.pe-desk')?.dataset.shown !== before", arg=before)
    return settle(page)


def eventually(what: Callable[[], Any], wanted: Any) -> None:
    deadline = time.monotonic() + 15
    while what() != wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    assert what() == wanted


def layers(page: Any) -> list[dict[str, float]]:
    """Where each image is within its frame, and its width, in CSS pixels."""
    return page.evaluate(
        """() => [...document.querySelectorAll('.pe-frame')].map((frame) => {
            const image = frame.querySelector('.pe-layer').getBoundingClientRect();
            const box = frame.getBoundingClientRect();
            return { x: image.x - box.x, y: image.y - box.y, width: image.width };
        })"""
    )


def middle(page: Any, side: str) -> tuple[float, float]:
    box = page.locator(f".pe-frame[data-side={side}] .pe-layer").bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_from_the_invitation_to_votes_a_reload_and_undo(visit: Callable[..., Any], app: LabelApp) -> None:
    from playwright.sync_api import expect

    hosts, bodies, page, name = set(), [], visit(), "Ännä <i>"
    page.on("request", lambda request: hosts.add(httpx.URL(request.url).host))
    page.on("response", lambda response: bodies.append(response))
    join(page, app, name)
    assert "join=" not in page.url
    expect(page.get_by_role("heading", level=1)).to_have_text("A study <b>of things</b>")
    page.keyboard.press("Enter")
    settle(page)
    expect(page.get_by_text("Practice")).to_be_visible()
    page.keyboard.press("ArrowDown")
    expect(page.locator(".pe-feedback")).to_contain_text("The other one is <i>pale</i>.")
    shown = re.compile(r"^Expected: (Left|Right)\.$|^That is the expected answer\.$")
    expect(page.locator(".pe-feedback strong")).to_have_text(shown, use_inner_text=True)
    page.keyboard.press("Enter")
    counted(page, 0)
    expect(page.get_by_role("heading", level=1)).to_have_text("Which image has fewer flaws?")
    expect(page.locator("blockquote")).to_be_hidden()
    for key in ("ArrowLeft", "ArrowDown", "ArrowRight", "b"):
        judge(page, key)
    page.keyboard.press("s")
    page.keyboard.press("2")
    counted(page, 5)
    votes = app.votes(name)
    assert [vote.choice for vote in votes] == ["left", "tie", "right", "both_bad", "skip"]
    assert [vote.reason for vote in votes] == [None] * 4 + ["I cannot judge this"]
    assert all(0.2 < vote.seconds < 60 for vote in votes)

    times = page.evaluate("performance.getEntriesByName('pixeval:next-pair').map(entry => entry.duration)")
    assert len(times) == 5 and statistics.median(times) <= 100, times
    text = page.content() + "".join(r.text() for r in bodies if "/api/project" in r.url)
    assert hosts == {"127.0.0.1"}
    assert [secret for secret in SECRETS if secret in text] == []

    page.reload()
    counted(page, 5)
    expect(page.locator("summary")).to_have_text(name)
    for done in (4, 3):
        page.keyboard.press("u")
        counted(page, done)
    page.keyboard.press("1")
    page.keyboard.press("1")  # a double press is one answer
    counted(page, 4)
    assert [vote.choice for vote in app.votes(name)][-2:] == ["skip", "left"]


def test_both_images_zoom_and_move_together(visit: Callable[..., Any], app: LabelApp) -> None:
    page = visit()
    work(page, app, "zoom")
    start = layers(page)
    assert [layer["width"] for layer in start] == [64, 64]  # 100 %: one pixel of the screen for each of the image
    x, y = middle(page, "left")
    page.mouse.move(x + 16, y - 8)
    for _ in range(4):
        page.mouse.wheel(0, -400)
    page.wait_for_function("document.querySelector('.pe-layer').clientWidth > 1000")
    left, right = layers(page)
    assert left == pytest.approx(right)
    # The place under the pointer stays there: three quarters across, three eighths down.
    assert left["x"] + 0.75 * left["width"] == pytest.approx(start[0]["x"] + 48, abs=1)
    assert left["y"] + 0.375 * left["width"] == pytest.approx(start[0]["y"] + 24, abs=1)
    assert page.locator(".pe-frame img").first.evaluate("image => image.style.imageRendering") == "pixelated"
    page.mouse.down()
    page.mouse.move(x - 44, y + 12, steps=3)
    page.mouse.up()
    page.wait_for_timeout(50)
    moved = layers(page)
    assert moved[0] == pytest.approx(moved[1])
    assert moved[0]["x"] == pytest.approx(left["x"] - 60, abs=1)

    page.keyboard.press("l")
    page.get_by_role("button", name="One alone", exact=True).wait_for()  # what is written is the button's name
    page.keyboard.press("o")  # keys now move the right image
    page.keyboard.press("Shift+ArrowLeft")
    page.wait_for_timeout(50)
    apart = layers(page)
    assert apart[0] == pytest.approx(moved[0])
    assert apart[1]["x"] == pytest.approx(moved[1]["x"] + 60, abs=1)
    page.keyboard.press("l")
    page.keyboard.press("Shift+ArrowDown")
    page.wait_for_timeout(50)
    locked = layers(page)
    assert locked[1]["x"] - locked[0]["x"] == pytest.approx(60, abs=1)
    assert locked[0]["y"] == pytest.approx(apart[0]["y"] - 60, abs=1)
    page.keyboard.press("0")
    page.wait_for_timeout(50)
    assert layers(page) == start


def test_slider_and_flicker_show_one_place(visit: Callable[..., Any], app: LabelApp) -> None:
    from playwright.sync_api import expect

    page = visit()
    work(page, app, "modes")
    page.keyboard.press("w")
    frames, handle = page.locator(".pe-frame"), page.get_by_role("slider")
    assert frames.nth(0).bounding_box() == frames.nth(1).bounding_box()
    expect(handle).to_have_attribute("aria-valuenow", "50")
    box = handle.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 141, box["y"] + 100, steps=3)
    page.mouse.up()
    expect(handle).to_have_attribute("aria-valuenow", "60")
    assert frames.nth(1).evaluate("frame => frame.style.clipPath").startswith("inset(0px 0px 0px 60")
    handle.focus()
    page.keyboard.press("ArrowRight")  # moves the divider and answers nothing
    expect(handle).to_have_attribute("aria-valuenow", "62")
    handle.blur()
    page.keyboard.press("f")
    expect(frames.nth(1)).to_be_hidden()
    page.keyboard.press("Space")
    expect(frames.nth(0)).to_be_hidden()
    page.keyboard.down("Space")
    expect(frames.nth(1)).to_be_hidden()
    page.wait_for_timeout(400)
    page.keyboard.up("Space")  # held: a glance
    expect(frames.nth(0)).to_be_hidden()
    page.keyboard.press("v")
    expect(frames.nth(0)).to_be_visible()
    assert app.votes("modes") == []


def test_flaws_are_marked_stay_in_place_and_come_back_after_undo(visit: Callable[..., Any], app: LabelApp) -> None:
    from playwright.sync_api import expect

    page = visit()
    work(page, app, "marks")
    page.keyboard.press("+")
    page.keyboard.press("+")
    page.get_by_role("button", name="Mark flaws").click()
    x, y = middle(page, "left")
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 32, y + 16, steps=3)
    page.mouse.up()
    expect(page.get_by_role("dialog", name="Flaw")).to_be_visible()
    page.keyboard.press("j")
    page.keyboard.press("4")
    x, y = middle(page, "right")
    page.mouse.click(x - 32, y)
    page.keyboard.press("Enter")
    marks = page.locator("button.pe-mark")
    expect(marks).to_have_count(2)
    place = "mark => { const m = mark.getBoundingClientRect(), l = mark.closest('.pe-layer').getBoundingClientRect();"
    place += " return [(m.x - l.x) / l.width, (m.y - l.y) / l.height, m.width / l.width]; }"
    before = marks.first.evaluate(place)
    page.mouse.wheel(0, -500)
    page.wait_for_timeout(80)
    assert marks.first.evaluate(place) == pytest.approx(before, abs=0.01)

    page.keyboard.press("Escape")
    page.keyboard.press("m")  # without a pointer: a cross
    for key in ("ArrowRight", "ArrowDown", "x", "ArrowRight", "ArrowDown", "Enter", "6", "Escape"):
        page.keyboard.press(key)
    expect(marks).to_have_count(3)
    page.reload()
    settle(page)
    expect(marks).to_have_count(3)
    judge(page, "ArrowLeft")
    [vote] = app.votes("marks")
    kinds = [(mark.side, mark.category, mark.severity, mark.width > 0) for mark in vote.marks]
    assert kinds[0] == ("left", "blur", "major", True)
    assert kinds[1][0] == "right" and not kinds[1][3]
    assert kinds[2][1] == "colour" and kinds[2][3]
    first = vote.marks[0]
    assert (first.x, first.y) == pytest.approx((0.5, 0.5), abs=0.03)
    assert (first.width, first.height) == pytest.approx((0.25, 0.125), abs=0.03)

    page.keyboard.press("u")
    expect(marks).to_have_count(3)
    settle(page)
    marks.first.focus()
    page.keyboard.press("Delete")
    judge(page, "ArrowLeft")
    eventually(lambda: [len(vote.marks) for vote in app.votes("marks")], [2])


def test_text_words_and_yes_no_questions_by_keyboard(visit: Callable[..., Any], app: LabelApp) -> None:
    from playwright.sync_api import expect

    page, name = visit(), "words"
    work(page, app, name, "second")
    expect(page.locator("blockquote .pe-text")).to_have_text(
        re.compile(r"^<img src=x onerror=window.hacked=1> a thing p\d+ ?$")
    )
    expect(page.locator(".pe-question")).to_have_text(CHECKS)
    assert page.evaluate("window.hacked") is None
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".pe-status")).to_contain_text("yes/no questions first")
    for key in "ynun":
        page.keyboard.press(key)
    for key in ("p", "ArrowRight", "ArrowRight", "ArrowRight", "Space", "ArrowRight", "Enter", "Escape"):
        page.keyboard.press(key)
    judge(page, "ArrowLeft")
    [vote] = app.votes(name)
    assert (vote.question, vote.choice, vote.words) == ("alignment", "left", (3, 4))
    answers = [(check.question, check.left, check.right) for check in vote.checks]
    assert answers == [(CHECKS[0], "yes", "no"), (CHECKS[1], "unsure", "no")]


def test_answers_without_a_connection_are_kept_and_sent(visit: Callable[..., Any], app: LabelApp) -> None:
    from playwright.sync_api import expect

    page, name = visit(), "offline"
    work(page, app, name)
    page.context.set_offline(True)
    judge(page, "ArrowLeft")
    judge(page, "ArrowRight")
    expect(page.locator(".pe-banner")).to_contain_text("2 answers are kept here")
    assert app.votes(name) == []
    page.context.set_offline(False)
    eventually(lambda: [vote.choice for vote in app.votes(name)], ["left", "right"])
    expect(page.locator(".pe-banner")).to_be_hidden()

    app.set_state("paused")
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("heading", level=1)).to_have_text("This study is paused")
    app.set_state("open")
    page.get_by_role("button", name="Look again").click()
    counted(page, 3)
    assert [vote.choice for vote in app.votes(name)] == ["left", "right", "tie"]


def test_a_second_tab_takes_over_and_shows_no_pair_twice(visit: Callable[..., Any], app: LabelApp) -> None:
    from playwright.sync_api import expect

    page = visit()
    work(page, app, "tabs")
    seen = {settle(page), judge(page, "ArrowLeft")}
    second = page.context.new_page()
    second.goto(app.url)
    assert settle(second) in seen
    expect(page.get_by_role("heading", level=1)).to_have_text("You went on in another tab")
    for _ in range(2):
        shown = judge(second, "ArrowRight")
        assert shown not in seen
        seen.add(shown)
    page.get_by_role("button", name="Go on here").click()
    counted(page, 3)
    expect(second.get_by_role("heading", level=1)).to_have_text("You went on in another tab")
    assert settle(page) == shown
    assert len(app.votes("tabs")) == 3


def test_a_lost_session_keeps_the_answer_and_a_password_brings_it_back(
    visit: Callable[..., Any], app: LabelApp
) -> None:
    from playwright.sync_api import expect

    page, name = visit(), "session"
    work(page, app, name, password="long enough")
    page.context.clear_cookies()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("alert")).to_contain_text("Your answers are kept")
    page.get_by_label("Password").fill("not that one")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("do not belong together")
    page.get_by_label("Password").fill("long enough")
    page.keyboard.press("Enter")
    counted(page, 1)
    eventually(lambda: [vote.choice for vote in app.votes(name)], ["right"])

    page.goto(app.link("second"))
    page.get_by_role("button", name="Join").click()
    page.get_by_role("button", name="A study <b>of things</b>").click()
    counted(page, 1)


def test_a_phone_in_the_hand(visit: Callable[..., Any], app: LabelApp) -> None:
    page = visit(**PHONE)
    work(page, app, "phone")
    boxes = [item.bounding_box() for item in page.locator("figure:visible, button.pe-choice:visible").all()]
    assert len(boxes) == 8  # two images; left, tie, right, both bad, skip, undo
    for box in boxes:
        assert box["x"] >= 0 and box["y"] >= 0 and box["x"] + box["width"] <= 390 and box["y"] + box["height"] <= 844
        assert box["height"] >= 44
    assert page.evaluate("document.documentElement.scrollWidth") == 390

    x, y = middle(page, "left")
    fingers = page.context.new_cdp_session(page)
    for kind, spread in (("touchStart", 20), ("touchMove", 50), ("touchMove", 80), ("touchEnd", 0)):
        points = [{"x": x - spread, "y": y, "id": 0}, {"x": x + spread, "y": y, "id": 1}] if spread else []
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        page.wait_for_timeout(30)
    left, right = layers(page)
    assert left["width"] == pytest.approx(4 * 32, rel=0.1) and left["width"] == right["width"]
    page.get_by_role("button", name="Mark flaws").tap()
    page.touchscreen.tap(*middle(page, "right"))
    page.get_by_role("radio", name="Blur").tap()
    page.get_by_role("button", name="Lower").tap()
    eventually(
        lambda: [(v.choice, [(m.side, m.category) for m in v.marks]) for v in app.votes("phone")],
        [("right", [("right", "blur")])],
    )


def test_a_lead_comes_to_the_lead_s_page(visit: Callable[..., Any], app: LabelApp) -> None:
    page = visit()
    page.goto(app.links["lead"])
    page.get_by_label("Your name").fill("lead")
    page.keyboard.press("Enter")
    page.wait_for_url("**/admin/")
    page.goto(app.url)
    page.get_by_role("link", name="The lead's page").wait_for()


def test_ctrl_c_ends_cleanly_and_a_late_answer_waits(visit: Callable[..., Any], app: LabelApp) -> None:
    page = visit()
    work(page, app, "late")
    assert app.stop() == 0
    judge(page, "ArrowLeft")
    page.locator(".pe-banner").get_by_text("One answer is kept here").wait_for()
    kept = page.evaluate("Object.keys(localStorage).filter(key => key.startsWith('pixeval|outbox|late|'))")
    assert len(kept) == 1
