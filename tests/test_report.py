"""The report: built from a run on disk, read back from its three files, and opened in a real browser."""

import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pixeval.errors import InputError
from pixeval.images import write_png
from pixeval.metrics.flaws import NoiseFlaw
from pixeval.records import QUESTIONS, Sample, Score, SetScore, Vote, sample_id
from pixeval.runs import Run
from pixeval.stats.bootstrap import paired_interval
from pixeval.stats.win_rates import win_rates
from pixeval.tables import write_records
from pixeval.zoo.icons import load_icons
from reports.arms import Source, arms_of, choose_baseline, choose_candidate
from reports.build import ReportConfig, build_report
from reports.compare import CompareConfig, compare, render
from reports.figures import Point, Series, line_chart, number, percent, stacked_bar, ticks
from reports.training import training_log

HOSTILE = ('<script>alert(1)</script> a "red" cat', '"><img src=x onerror=alert(2)> | `dog` [a](http://evil.example/x)')
STEPS = (20, 40, 60)
FLAW = "noise_flaw"
TOO_LONG = "the prompt has 91 tokens, over the limit of 77"


def make_run(path: Path, prompts: int = 12, strength: float = 1.0, with_votes: bool = True) -> Run:
    """A training run whose images get cleaner with every checkpoint; two prompts try to break out of the page."""
    icons = load_icons("heldout")
    texts = [*HOSTILE, *icons.captions[2:prompts]]
    lines = [json.dumps({"id": f"p{i}", "prompt": text, "tags": tags(i)}) for i, text in enumerate(texts)]
    file = path.parent / f"{path.name}-prompts.jsonl"
    file.write_text("\n".join(lines))
    run = Run.create(path, "train", {"method": "simpo", "space": "both", "prompts": str(file), "mu": 8.0})
    samples, scores = [], []
    noise = np.random.default_rng(7)
    for label, amount in [("base", 1.0)] + [(f"step-{s:06d}", 1 - strength * s / 80) for s in STEPS]:
        for i in range(prompts):
            for seed in (0, 1):
                identity = sample_id(label if label == "base" else f"{path.name}-{label}", f"p{i}", seed)
                image = degrade(icons.images[i], amount * (0.7 + 0.6 * ((i * 7 + seed) % 5) / 5), 10 * i + seed)
                where = f"images/{identity}.png"
                digest = write_png(image, run.path / where)
                generator = "g0" if label == "base" else f"{path.name}/{label}"
                samples.append(Sample(identity, label, f"p{i}", texts[i], seed, generator, where, digest))
                scores += score(identity, image, amount, float(noise.normal()), len(samples) == 4)
    run.write_samples(samples)
    run.write_scores(scores)
    sets = [("base", 41.0), ("step-000020", 36.0), ("step-000060", 24.0)]
    run.write_set_scores(
        [SetScore(n, "frechet_distance", v, v - 4, v + 4, 24, "icons heldout", None, "fd/1") for n, v in sets]
    )
    log = [{"step": s, "loss": 0.7 / (1 + s / 40), "pixel_loss": 0.5 / (1 + s / 30), "accuracy": 0.5 + s / 200,
            "margin": s / 300, "grad_norm": 1.0 if s != 31 else float("nan")} for s in range(60)]  # fmt: skip
    (path / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in log) + '\n{"step": 60, "lo')
    if with_votes:
        write_votes(run, samples, strength)
    return run


def tags(i: int) -> list[str]:
    return ["heldout"] if i % 2 else []


def degrade(icon: np.ndarray, amount: float, seed: int) -> Tensor:
    image = torch.from_numpy(icon.astype(np.float32).transpose(2, 0, 1) / 255)
    soft = torch.nn.functional.avg_pool2d(image[None], 5, 1, 2, count_include_pad=False)[0]
    grain = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed)) * 0.12
    return (image + amount * (soft - image) + amount * grain).clamp(0, 1)


def score(identity: str, image: Tensor, amount: float, wobble: float, failed: bool) -> list[Score]:
    flaw = float(NoiseFlaw()(image[None])[0])
    clip = None if failed else 0.27 - 0.004 * (1 - amount) + 0.004 * wobble
    reason = TOO_LONG if failed else None
    return [
        Score(identity, FLAW, flaw, None, "noise_flaw/1"),
        Score(identity, "sharpness", 0.4 + 0.2 * (1 - amount) + 0.1 * wobble, None, "sharp/1"),
        Score(identity, "clip_score", clip, reason, "clip/1"),
        Score(identity, "my_own_metric", 5 + wobble, None, "own/1"),
    ]


def write_votes(run: Run, samples: list[Sample], strength: float) -> None:
    by_key = {(s.label, s.prompt_id, s.seed): s for s in samples}
    rng = np.random.default_rng(3)
    votes = []
    wanted = {"flaws": 0.45, "appeal": 0.25, "alignment": 0.0}
    for key, base in by_key.items():
        if key[0] != "base" or key[2] != 0:
            continue
        for who in range(6):
            for question in QUESTIONS:
                final = by_key["step-000060", key[1], 0]
                swap = bool(rng.random() < 0.5)
                left, right = (final, base) if swap else (base, final)
                lean = strength * wanted[question] + 0.1 * (who - 2.5) / 2.5
                draw = rng.random()
                better = "tie" if draw < 0.2 else "final" if rng.random() < 0.5 + lean else "base"
                choice = "tie" if better == "tie" else "left" if (better == "final") == swap else "right"
                votes.append(
                    Vote(f"v{len(votes):04d}", f"sim-{who}", question, base.prompt_id or "", base.prompt or "", left.id,
                         right.id, left.label, right.label, choice, 2.0 + draw,
                         f"2026-11-01T10:{len(votes) // 60:02d}:{len(votes) % 60:02d}Z", None, True)
                )  # fmt: skip
    write_records(run.path / "votes" / "simulated.parquet", votes, Vote)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    root = tmp_path_factory.mktemp("report")
    run = make_run(root / "pixel-simpo")
    other = make_run(root / "latent-dpo", strength=0.4, with_votes=False)
    return run, build_report(ReportConfig(run.path, (other.path,)))


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
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "data", "action", "poster"):
                assert (value or "").startswith(("data:image/webp;base64,", "#")), value
    assert "@import" not in source
    assert "url(" not in source
    policy = next(a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
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
        assert (got["value"], got["low"], got["high"], got["n"]) == pytest.approx(
            (expected.value, expected.low, expected.high, expected.n)
        )
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
        "Improved most",
        "simpo",
    ):
        assert text in page.text, text
    images = [a for t, a in page.tags if t == "img"]
    assert len(images) == 12 * 2 + 6 * 4 + 3 * 4  # pairs, checkpoints, flaw maps
    assert all(a["alt"] for a in images)


def test_markdown_twin_holds_the_numbers_and_no_markup(built: tuple[Run, Path]) -> None:
    text = (built[1].parent / "report.md").read_text(encoding="utf-8")
    found = load_json(built[1])
    assert "216 of 216 votes come from simulated annotators" in text
    for change in found["comparisons"][0]["changes"]:
        assert f"{number(change['change']['value'], signed=True)} (" in text
    assert "<" not in text.replace("&lt;", "")
    assert "{{" not in text


def test_equal_inputs_give_equal_bytes(built: tuple[Run, Path], tmp_path: Path) -> None:
    run, page = built
    other = page.parent.parent.parent / "latent-dpo"
    again = build_report(ReportConfig(run.path, (other,), out=tmp_path))
    for name in ("report.html", "report.md", "report.json"):
        assert (again.parent / name).read_bytes() == (page.parent / name).read_bytes()


def test_sections_without_data_say_what_fills_them(tmp_path: Path) -> None:
    icons = load_icons("heldout")
    run = Run.create(tmp_path / "bare", "generate", {"prompts": "gone.txt"})
    samples = []
    for i in range(3):
        digest = write_png(degrade(icons.images[i], 0, 0), run.path / f"{i}.png")
        samples.append(Sample(f"s{i}", "base", f"p{i}", icons.captions[i], 0, "g", f"{i}.png", digest))
    (run.path / "2.png").write_bytes(b"not an image")
    run.write_samples(samples)
    page = Page(build_report(ReportConfig(run.path)).read_text(encoding="utf-8"))
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
    found = load_json(build_report(ReportConfig(run.path)))
    assert {c["verdict"] for c in found["comparisons"][0]["changes"]} == {"unclear"}


def test_other_versions_of_a_metric_are_not_compared(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mixed", prompts=6)
    base = {s.id for s in run.samples() if s.label == "base"}
    run.write_scores([replace(s, fingerprint="old") if s.sample_id in base else s for s in run.scores()])
    found = load_json(build_report(ReportConfig(run.path)))
    assert found["comparisons"][0]["changes"] == []
    assert "different versions" in found["comparisons"][0]["incomparable"][0]["reason"]


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
        build_report(ReportConfig(built[0].path, **config))  # type: ignore[arg-type]


def test_empty_run_is_refused(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "empty", "generate", {})
    with pytest.raises(InputError, match="holds no samples"):
        build_report(ReportConfig(run.path))


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
    page = build_report(ReportConfig(run.path)).read_text()
    assert "held-out pixel_error" in page
    assert "held-out pixel_error_t10" not in page
    assert "reward hacking</b> at step 40, 60. flaws &lt;b&gt; of step 60." in page
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
    assert stacked_bar(1, 0, 0, "all").count("<rect") == 1


def chromium() -> str | None:
    return next((p for p in ("/usr/bin/chromium", "/usr/bin/google-chrome") if Path(p).exists()), None)


@pytest.mark.skipif(chromium() is None and "CI" not in os.environ, reason="no Chromium on this machine")
def test_page_in_a_browser(built: tuple[Run, Path]) -> None:
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=flags)
        for width in (1440, 390):
            for scheme in ("light", "dark"):
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
                shown = tab.locator(".pair img").first.bounding_box()
                assert shown is not None
                assert 128 <= shown["width"] <= 192
                assert contrast(tab, "body") > 7
                assert contrast(tab, ".soft") > 4.5
                context.close()
        browser.close()


def contrast(tab, selector: str) -> float:  # type: ignore[no-untyped-def]
    """WCAG contrast of the text of the first match against the page."""
    script = "s => [getComputedStyle(document.querySelector(s)).color, getComputedStyle(document.body).backgroundColor]"
    light = sorted(luminance(text) for text in tab.evaluate(script, selector))
    return (light[1] + 0.05) / (light[0] + 0.05)


def luminance(text: str) -> float:
    channels = [int(c) / 255 for c in re.findall(r"\d+", text)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
