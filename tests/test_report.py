"""The report: built from a run on disk, read back from its three files, and opened in a real browser."""

import base64
import hashlib
import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_study import FLAW, HOSTILE, STEPS, TOO_LONG, degrade, make_run

from pixeval.errors import InputError
from pixeval.images import write_png
from pixeval.records import QUESTIONS, Sample
from pixeval.runs import Run
from pixeval.stats.bootstrap import paired_interval
from pixeval.stats.win_rates import win_rates
from pixeval.zoo.icons import load_icons
from reports.arms import Source, arms_of, choose_baseline, choose_candidate
from reports.build import ReportConfig, assembled, build_report
from reports.compare import CompareConfig, compare, render
from reports.figures import Point, Series, line_chart, number, percent, stacked_bar, ticks
from reports.training import training_log

DAY = 1_767_225_600
"""2026-01-01."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    root = tmp_path_factory.mktemp("report")
    run = make_run(root / "pixel-simpo")
    other = make_run(root / "latent-dpo", strength=0.4, with_votes=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", str(DAY))
        return run, build_report(ReportConfig((run.path, other.path)))


class Page(HTMLParser):
    """Every tag with its attributes, and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def load_json(page: Path) -> dict:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not RFC 8259 JSON")

    return json.loads((page.parent / "report.json").read_text(encoding="utf-8"), parse_constant=refuse)


def test_page_loads_nothing_and_escapes_prompts(built: tuple[Run, Path]) -> None:
    source = built[1].read_text(encoding="utf-8")
    page = Page(source)
    script = re.search(r"<script>(.*?)</script>", source, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert tag != "script" or not attributes
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                assert (value or "").startswith(("data:image/webp;base64,", "#")), value
    assert "@import" not in source
    assert "url(" not in source
    policy = next(a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-")
    assert f"'sha256-{digest}'" in policy  # no other script can run
    for prompt in HOSTILE:
        assert prompt in page.text  # shown as it was written, never as markup
        assert any(prompt in (a.get("title") or "") for _, a in page.tags)


def test_json_numbers_equal_those_of_the_records(built: tuple[Run, Path]) -> None:
    run, page = built
    found = load_json(page)
    assert (found["baseline"], found["candidate"]) == ("base", "step-000060")
    head = found["comparisons"][0]
    values = {(s.sample_id, s.metric): s.value for s in run.scores()}
    pairs: dict[tuple, dict[str, Sample]] = {}
    for sample in run.samples():
        pairs.setdefault((sample.prompt_id, sample.seed), {})[sample.label] = sample
    for change in head["changes"]:
        rows = [
            (values[p["step-000060"].id, change["metric"]], values[p["base"].id, change["metric"]], key[0])
            for key, p in pairs.items()
        ]
        kept = [row for row in rows if None not in row]
        expected = paired_interval([r[0] for r in kept], [r[1] for r in kept], clusters=[r[2] for r in kept])
        got = change["change"]
        bounds = expected.low, expected.high
        # Where a value is missing, its prompt is drawn too, so that the bounds differ a little.
        near = {"rel": 0.25} if len(kept) < len(rows) else {}
        assert (got["value"], got["n"]) == pytest.approx((expected.value, expected.n))
        assert (got["low"], got["high"]) == pytest.approx(bounds, **near)
    assert {c["metric"]: c["change"]["n"] for c in head["changes"]}["clip_score"] == 23  # one could not be scored
    for question, vote in zip(QUESTIONS, head["votes"], strict=True):
        rates = win_rates(run.votes(), "step-000060", "base", question)
        assert (vote["rates"]["win"], vote["rates"]["tie"], vote["rates"]["loss"]) == (rates.win, rates.tie, rates.loss)
        assert vote["rates"]["net"]["low"] == rates.net.low
    assert found["simulated_votes"] == len(run.votes()) == 12 * 6 * 3


def test_verdicts_follow_intervals_and_directions(built: tuple[Run, Path]) -> None:
    found = load_json(built[1])
    verdicts = {c["metric"]: c["verdict"] for c in found["comparisons"][0]["changes"]}
    assert verdicts[FLAW] == "better"  # it went down, and lower is better
    assert verdicts["sharpness"] == "better"
    assert verdicts["my_own_metric"] in ("higher", "lower", "unclear")  # the catalogue does not know it
    effect = next(c["effect"] for c in found["comparisons"][0]["changes"] if c["metric"] == FLAW)
    assert 0 < effect["low"] < effect["value"] < effect["high"]
    assert found["summary"]["headline"].startswith("Simulated annotators prefer step-000060 to base for fewer flaws")
    sets = {row["arm"]: row["verdict"] for row in found["sets"]}
    assert (sets["base"], sets["step-000020"], sets["step-000060"]) == (None, "unclear", "better")


def test_both_runs_share_the_base_and_are_compared(built: tuple[Run, Path]) -> None:
    found = load_json(built[1])
    names = [arm["name"] for arm in found["arms"]]
    assert names == ["base", *(f"step-{s:06d}" for s in STEPS), *(f"latent-dpo/step-{s:06d}" for s in STEPS)]
    compared = [(c["baseline"], c["candidate"]) for c in found["comparisons"]]
    assert compared[1:] == [("base", "latent-dpo/step-000060"), ("latent-dpo/step-000060", "step-000060")]


def test_what_must_be_seen_is_on_the_page(built: tuple[Run, Path]) -> None:
    page = Page(built[1].read_text(encoding="utf-8"))
    for text in (
        "come from simulated annotators",
        "held-out prompt",
        TOO_LONG,
        "grad_norm was not finite at 1 of 60 logged steps, first at step 31",
        "1 line of the log could not be read",
        "Most won",
        "simpo",
    ):
        assert text in page.text, text
    images = [a for t, a in page.tags if t == "img"]
    exhibits = sum(a.get("class") == "exhibit" for _, a in page.tags)
    assert exhibits > 20
    assert len(images) == exhibits * 4 + 4 * 4  # each pair with its heat maps; checkpoints
    assert all(a["alt"] for a in images)


def test_markdown_twin_holds_the_numbers_and_no_markup(built: tuple[Run, Path]) -> None:
    text = (built[1].parent / "report.md").read_text(encoding="utf-8")
    found = load_json(built[1])
    assert "216 of 216 votes come from simulated annotators" in text
    for change in found["comparisons"][0]["changes"]:
        assert f"{number(change['change']['value'], signed=True)} (" in text
    assert "<" not in text.replace("&lt;", "")
    assert "{{" not in text


def test_equal_inputs_give_equal_bytes_but_for_the_date(
    built: tuple[Run, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(DAY + 86_400))
    run, page = built
    other = page.parent.parent.parent / "latent-dpo"
    build_report(ReportConfig((run.path, other), out=tmp_path))
    names = sorted(path.name for path in page.parent.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir())
    for name in names:
        first, second = ((folder / name).read_bytes() for folder in (page.parent, tmp_path))
        assert first == second.replace(b"2026-01-02", b"2026-01-01"), name


def test_sections_without_data_say_what_fills_them(tmp_path: Path) -> None:
    icons = load_icons("heldout")
    run = Run.create(tmp_path / "bare", "generate", {"prompts": "gone.txt"})
    samples = []
    for i in range(3):
        digest = write_png(degrade(icons.images[i], 0, 0), run.path / f"{i}.png")
        samples.append(Sample(f"s{i}", "base", f"p{i}", icons.captions[i], 0, "g", f"{i}.png", digest))
    (run.path / "2.png").write_bytes(b"not an image")
    run.write_samples(samples)
    page = Page(build_report(ReportConfig((run.path,))).read_text(encoding="utf-8"))
    for text in (
        "nothing to compare it with",
        "pixeval score RUN",
        "pixeval label RUN_A RUN_B",
        "pixeval train",
        "2.png is not an image",
        "No distribution scores",
    ):
        assert text in page.text, text


def test_few_prompts_are_never_called(tmp_path: Path) -> None:
    run = make_run(tmp_path / "few", prompts=5)
    found = assembled([run], ReportConfig((run.path,)))
    assert {change.verdict for change in found.comparisons[0].changes} == {"unclear"}


def test_other_versions_of_a_metric_are_not_compared(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mixed", prompts=6)
    base = {s.id for s in run.samples() if s.label == "base"}
    run.write_scores([replace(s, fingerprint="old") if s.sample_id in base else s for s in run.scores()])
    found = assembled([run], ReportConfig((run.path,))).comparisons[0]
    assert found.changes == ()
    assert "different versions" in found.incomparable[0].reason


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"baseline": "bse"}, "Did you mean 'base'"),
        ({"candidate": "step-000061"}, "step-000060"),
        ({"heatmap": "noise_flw"}, "noise_flaw"),
    ],
)
def test_bad_names_say_what_was_meant(built: tuple[Run, Path], config: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        build_report(ReportConfig((built[0].path,), **config))  # type: ignore[arg-type]


def test_empty_run_is_refused(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "empty", "generate", {})
    with pytest.raises(InputError, match="holds no samples"):
        build_report(ReportConfig((run.path,)))


def test_last_checkpoint_is_judged_and_labels_of_two_runs_stay_apart() -> None:
    def sample(identity: str, label: str) -> Sample:
        return Sample(identity, label, "p", "text", 0, identity, "x.png", "0")

    first = Source("a", [sample("b", "base"), sample("a9", "step-000009"), sample("a10", "step-000010")])
    second = Source("b", [sample("b", "base"), sample("b9", "step-000009")])
    arms = arms_of([first, second])
    assert [arm.name for arm in arms] == ["base", "step-000009", "step-000010", "b/step-000009"]
    base = choose_baseline(arms, "base")
    candidate = choose_candidate(arms, base, None)
    assert base is not None
    assert candidate is not None
    assert (base.name, candidate.name) == ("base", "step-000010")


def test_compare_reads_both_ways(built: tuple[Run, Path]) -> None:
    run = built[0]
    forward = compare(CompareConfig((f"{run.path}:base", f"{run.path}:step-000060")))
    backward = compare(CompareConfig((str(run.path), f"{run.path}:base")))  # the last checkpoint by default
    (first,), (second,) = forward["comparisons"], backward["comparisons"]
    assert second["baseline"] == "step-000060"
    for a, b in zip(first["changes"], second["changes"], strict=True):
        assert a["change"]["value"] == pytest.approx(-b["change"]["value"])
    for a, b in zip(first["votes"], second["votes"], strict=True):
        assert (a["rates"]["win"], a["rates"]["loss"]) == (b["rates"]["loss"], b["rates"]["win"])
    text = render(forward)
    assert "simulated annotators" in text
    assert "noise_flaw" in text
    with pytest.raises(InputError, match="same images"):
        compare(CompareConfig((f"{run.path}:base", f"{run.path}:base")))
    with pytest.raises(InputError, match="step-000060"):
        compare(CompareConfig((f"{run.path}:base", f"{run.path}:step-60")))


def test_training_log_survives_what_is_in_it() -> None:
    lines = [
        '{"step": 1, "loss": 2.0}',
        '{"step": 1, "loss": 1.0}',
        '{"step": 2, "loss": NaN, "note": "x"}',
        "[1]",
        '{"st',
    ]
    log = training_log(lines, "run")
    assert log.unreadable_lines == 2
    (curve,) = log.curves
    assert curve.points == ((1.0, 1.0),)  # the later line of a step counts
    assert curve.not_finite == (2,)
    many = training_log([json.dumps({"step": s, "loss": float(s)}) for s in range(1000)], "run").curves[0]
    assert len(many.points) <= 240
    assert sum(y for _, y in many.points) / len(many.points) == pytest.approx(499.5)


def test_held_out_curves_and_warnings_of_training_are_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", prompts=2, with_votes=False)
    probes = [{"step": s, "pixel_error": 0.5 - s / 200, "pixel_error_t10": 0.1, "rows": {}} for s in (0, 20, 40, 60)]
    (run.path / "probes.jsonl").write_text("\n".join(json.dumps(row) for row in probes))
    warned = [{"step": s, "warning": "reward_hacking", "text": f"flaws <b> of step {s}"} for s in (40, 60)]
    (run.path / "warnings.jsonl").write_text("\n".join(json.dumps(row) for row in warned) + '\n{"st')
    page = build_report(ReportConfig((run.path,))).read_text()
    assert ">pixel_error</h4>" in page
    assert "pixel_error_t10" not in page
    assert "flaws &lt;b&gt; of step 60." in page
    told = json.loads((run.path / "report/report.json").read_text())
    assert any("reward hacking at step 60" in line for line in told["summary"]["caveats"])


def test_numbers_for_people() -> None:
    shown = [number(x) for x in (0.0, 0.000123, 0.01234, 12.0, 1234.5, None)]
    assert shown == ["0", "0.000123", "0.0123", "12", "1,234", "–"]
    assert number(-0.5, signed=True) == "−0.500"
    assert (percent(0.125), percent(-0.3, signed=True), percent(0.3, signed=True)) == ("12 %", "−30 %", "+30 %")
    assert ticks(0.1, 0.9, 4) == [0.2, 0.4, 0.6, 0.8]


def test_figures_escape_names_and_take_single_points() -> None:
    chart = line_chart([Series("<b>", (Point(0, 1.0, 0.5, 1.5),))], 'say "x"')
    assert "&lt;b&gt;" in chart
    assert "<b>" not in chart
    assert "nan" not in chart
    assert stacked_bar(1, 0, 0, 0, "all").count("<rect") == 1


def chromium() -> str | None:
    return next((p for p in ("/usr/bin/chromium", "/usr/bin/google-chrome") if Path(p).exists()), None)


@pytest.mark.skipif(chromium() is None and "CI" not in os.environ, reason="no Chromium on this machine")
def test_page_in_a_browser(built: tuple[Run, Path]) -> None:
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=flags)
        for width, scheme in ((1440, "light"), (390, "dark")):
            context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
            tab = context.new_page()
            said: list[str] = []
            asked: list[str] = []
            tab.on("console", lambda message, said=said: said.append(message.text))
            tab.on("pageerror", lambda error, said=said: said.append(str(error)))
            tab.on("dialog", lambda dialog, said=said: (said.append(dialog.message), dialog.dismiss()))
            tab.on("request", lambda request, asked=asked: asked.append(request.url))
            tab.goto(built[1].as_uri())
            for summary in tab.locator("summary").all():
                summary.click()
            assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (width, scheme)
            assert tab.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
            assert said == []
            assert [url for url in asked if not url.startswith(("data:", "file:"))] == []
            assert sum(url.startswith("file:") for url in asked) == 1
            shown = tab.locator(".exhibit img").first.bounding_box()
            assert shown is not None
            assert 128 <= shown["width"] <= 192
            assert contrast(tab, "body") > 7
            assert contrast(tab, ".soft") > 4.5
            assert contrast(tab, ".tag.better") > 4.5
            if width == 1440:
                walk_the_gallery(tab)
            context.close()
        browser.close()


def walk_the_gallery(tab) -> None:  # type: ignore[no-untyped-def]
    """By keyboard alone: choose an order, go to the second pair, look at it large, swap sides, go on, close."""
    assert tab.locator(".group:visible").count() == 1
    tab.locator("#tab-won").focus()
    tab.keyboard.press("ArrowRight")
    assert tab.evaluate("document.activeElement.id") == "tab-" + tab.locator(".group:visible").get_attribute("id")[6:]
    tab.keyboard.press("1")
    tab.keyboard.press("ArrowRight")
    pairs = tab.locator("#group-won .exhibit")
    assert pairs.nth(1).evaluate("e => e === document.activeElement")
    sides = pairs.nth(1).locator(".two:not(.maps) img")
    tab.keyboard.press("Enter")
    large = tab.locator("#viewer img")
    assert large.get_attribute("src") == sides.nth(1).get_attribute("src")
    tab.keyboard.press(" ")
    assert large.get_attribute("src") == sides.nth(0).get_attribute("src")
    tab.keyboard.press("h")
    assert large.get_attribute("src") == pairs.nth(1).locator(".maps img").nth(0).get_attribute("src")
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("Escape")
    assert not tab.evaluate("document.getElementById('viewer').open")
    assert pairs.nth(2).evaluate("e => e === document.activeElement")


def contrast(tab, selector: str) -> float:  # type: ignore[no-untyped-def]
    """WCAG contrast of the text of the first match against the page."""
    script = "s => [getComputedStyle(document.querySelector(s)).color, getComputedStyle(document.body).backgroundColor]"
    light = sorted(luminance(text) for text in tab.evaluate(script, selector))
    return (light[1] + 0.05) / (light[0] + 0.05)


def luminance(text: str) -> float:
    channels = [int(c) / 255 for c in re.findall(r"\d+", text)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
