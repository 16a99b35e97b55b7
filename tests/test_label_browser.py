"""The labelling page in a real browser: name, keys, reload, undo, phone size."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from label_study import SECRETS, two_runs

from human_eval_app.store import Store
from pixeval.records import current_votes
from pixeval.runs import Run

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ, reason="no Chromium is installed (with CI set this fails instead)"
)
SERVE = """
import sys
from pathlib import Path
from human_eval_app.serve import LabelConfig, label
label(LabelConfig(tuple(map(Path, sys.argv[3:])), db=Path(sys.argv[1]), port=int(sys.argv[2])))
"""


class App:
    """The app in a process of its own, as a user runs it."""

    def __init__(self, folder: Path) -> None:
        self.runs = two_runs(folder)
        self.database = folder / "votes.sqlite3"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        arguments = [str(self.database), str(self.port), *map(str, self.runs)]
        self.process = subprocess.Popen([sys.executable, "-c", SERVE, *arguments])
        for _ in range(240):
            try:
                if httpx.get(self.url, timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert self.process.poll() is None, "the app ended"
            time.sleep(0.25)
        raise AssertionError("the app did not answer within a minute")

    def stop(self, how: int = signal.SIGINT) -> int:
        self.process.send_signal(how)
        return self.process.wait(20)

    def choices(self) -> list[str]:
        store = Store.at(self.database)
        try:
            return [v.choice for v in current_votes(store.votes())]
        finally:
            store.close()


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    app = App(tmp_path_factory.mktemp("label"))
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
def page(browser: Any, app: App) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(30_000)
    page = context.new_page()
    yield page
    context.close()


def join(page: Any, app: App, name: str) -> None:
    page.goto(app.url)
    page.get_by_label("Your name").fill(name)
    page.keyboard.press("Enter")
    expect_count(page, 0)


def expect_count(page: Any, done: int) -> None:
    """Wait until the progress says so and a pair (or the end) is there, past the guard against double presses."""
    from playwright.sync_api import expect

    expect(page.locator(".pe-count")).to_have_text(re.compile(rf"^{done} of 36$"))
    expect(page.locator("figure img:visible")).to_have_count(2)
    page.wait_for_function("document.querySelectorAll('figure img')[1].naturalWidth === 64")
    page.wait_for_timeout(400)


def test_vote_by_keyboard_reload_and_undo(page: Any, app: App) -> None:
    from playwright.sync_api import expect

    join(page, app, "Ännä <i>")
    expect(page.get_by_role("heading")).to_have_text("Which image has fewer flaws?")
    expect(page.locator("blockquote")).to_be_hidden()
    for done, key in enumerate(("ArrowLeft", "ArrowDown", "ArrowRight", "b", "s"), start=1):
        page.keyboard.press(key)
        expect_count(page, done)
    assert app.choices() == ["left", "tie", "right", "both_bad", "skip"]

    page.reload()
    expect_count(page, 5)
    expect(page.locator(".pe-who")).to_have_text("Ännä <i>")
    page.keyboard.press("u")
    expect_count(page, 4)
    page.keyboard.press("u")
    expect_count(page, 3)
    page.keyboard.press("1")
    expect_count(page, 4)
    assert app.choices()[3:] == ["skip", "left"]

    for done in range(5, 11):
        page.locator("button[data-choice=right]").click()
        expect_count(page, done)
    expect(page.get_by_role("heading")).to_have_text("Which image do you like more?")
    expect(page.locator("blockquote")).to_have_text(re.compile(r"^a thing <b>number</b> \d+$"))
    page.keyboard.press("r")
    expect_count(page, 11)
    assert app.choices()[-1] == "reject"


def test_a_double_press_is_one_answer(page: Any, app: App) -> None:
    join(page, app, "double")
    before = len(app.choices())
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect_count(page, 1)
    assert len(app.choices()) == before + 1


def test_answers_given_while_the_server_is_away_are_kept(page: Any, app: App) -> None:
    join(page, app, "offline")
    before = len(app.choices())
    app.stop(signal.SIGKILL)
    page.keyboard.press("ArrowLeft")
    expect_count(page, 1)
    page.keyboard.press("ArrowRight")
    expect_count(page, 2)
    assert len(app.choices()) == before
    app.start()
    deadline = time.monotonic() + 20
    while len(app.choices()) < before + 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert app.choices()[before:] == ["left", "right"]
    page.reload()
    expect_count(page, 2)


@pytest.mark.parametrize("width", [1440, 390])
def test_images_and_buttons_are_within_the_screen(page: Any, app: App, width: int) -> None:
    height = 900 if width == 1440 else 844
    page.set_viewport_size({"width": width, "height": height})
    join(page, app, f"size {width}")
    boxes = [item.bounding_box() for item in page.locator("figure img, button.pe-choice:visible").all()]
    assert len(boxes) >= 7
    for box in boxes:
        assert box is not None and box["x"] >= 0 and box["y"] >= 0, box
        assert box["x"] + box["width"] <= width and box["y"] + box["height"] <= height, box
    left, right = (box for box in boxes[:2])
    assert left is not None and right is not None and left["width"] == right["width"] >= 128
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_zoom_shows_the_same_place_on_both_images(page: Any, app: App) -> None:
    join(page, app, "zoom")
    box = page.locator("figure").first.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    styles = page.locator("figure img").evaluate_all(
        "images => images.map(image => [image.style.transform, image.style.transformOrigin])"
    )
    assert styles[0] == styles[1] and styles[0][0] == "scale(3)" and styles[0][1].startswith("25")
    page.keyboard.press("z")
    assert page.locator("figure img").first.evaluate("image => image.style.transform") == ""


def test_the_browser_learns_no_label_and_asks_no_other_host(page: Any, app: App) -> None:
    hosts, bodies = set(), []
    page.on("request", lambda request: hosts.add(httpx.URL(request.url).host))
    page.on("response", lambda response: bodies.append(response))
    join(page, app, "spy")
    text = page.content() + "".join(r.text() for r in bodies if "/api/next" in r.url)
    assert hosts == {"127.0.0.1"}
    assert [secret for secret in SECRETS if secret in text] == []


def test_ctrl_c_ends_cleanly_and_writes_the_votes(app: App) -> None:
    before = app.choices()
    assert app.stop() == 0
    assert len(current_votes(Run.open(app.runs[0]).votes())) == len(before) > 0
