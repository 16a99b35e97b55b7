"""What stands beside the page: the ledger, the summary and its schema, LaTeX, model-card YAML, and the leaderboard."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import EvalResult, ModelCardData, parse_eval_result_entries
from report_study import FLAW, HOSTILE, make_run, mark_flaws

import reports
from pixeval.errors import InputError
from pixeval.runs import Run
from reports.build import ReportConfig, build_report
from reports.figures import number, percent
from reports.hub import yaml as emit
from reports.latex import tex

SCHEMA = json.loads((Path(reports.__file__).parent / "summary.schema.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    run = make_run(tmp_path_factory.mktemp("twins") / "run_1 & more")
    mark_flaws(run)
    return run, build_report(ReportConfig((run.path,))).parent


class Traced(HTMLParser):
    """``data`` elements with their text, marks of charts, images, and numbers in table cells that are not traced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.figures: list[tuple[str, str, str]] = []
        self.points: list[str] = []
        self.samples: list[str] = []
        self.loose: list[str] = []
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        held = dict(attrs)
        if tag not in ("img", "meta", "br", "col"):
            self.open.append((tag, held))
        if tag == "data":
            self.figures.append((held["data-id"] or "", held["value"] or "", ""))
        elif held.get("data-id"):
            self.points.append(held["data-id"] or "")
        if tag == "img" and held.get("data-sample"):
            self.samples.append(held["data-sample"] or "")

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1][0] == "data":
            place, value, _ = self.figures[-1]
            self.figures[-1] = (place, value, data)
            return
        cells = any(tag == "td" and "num" in (held.get("class") or "") for tag, held in self.open)
        if cells and re.search(r"\d", data):
            self.loose.append(data)


def test_every_figure_of_the_page_is_a_row_of_the_ledger(built: tuple[Run, Path]) -> None:
    run, folder = built
    rows = {row["id"]: row for row in pq.read_table(folder / "figures.parquet").to_pylist()}
    page = Traced((folder / "report.html").read_text(encoding="utf-8"))
    assert len(page.figures) > 200
    for place, value, text in page.figures:
        row = rows[place]
        held = [row[k] for k in ("value", "low", "high", "n")]
        if value:
            assert any(v is not None and v == pytest.approx(float(value)) for v in held), place
            shown = float(value)
            forms = {number(shown), number(shown, True), percent(shown), percent(shown, True), f"{int(shown):,}"}
            assert text in forms, (place, text)
    assert page.loose == [], "a number in a table that cannot be traced"
    assert len(page.points) > 20
    for place in page.points:
        assert place in rows or any(other.startswith(place + ".") for other in rows), place
    known = {sample.id for sample in run.samples()}
    assert page.samples
    assert set(page.samples) <= known
    net = rows["comparisons.0.votes.flaws.rates.net"]
    assert (net["question"], net["candidate"], net["file"]) == ("flaws", "step-000060", "votes/*.parquet")
    assert rows[f"comparisons.0.changes.{FLAW}.change"]["metric"] == FLAW


def test_the_summary_holds_to_its_schema(built: tuple[Run, Path], tmp_path: Path) -> None:
    found = json.loads((built[1] / "summary.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validate = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker()).validate
    validate(found)
    net = found["comparisons"][0]["votes"][0]["net"]
    low, high = percent(net["low"], True), percent(net["high"], True)
    said = f"net win rate {percent(net['value'], True)} (95 % interval {low} to {high}) on flaws, "
    assert said in found["verdict"]["sentence"]
    run = make_run(tmp_path / "bare", prompts=2, with_votes=False)
    run.write_samples([s for s in run.samples() if s.label == "base"])
    alone = json.loads((build_report(ReportConfig((run.path,))).parent / "summary.json").read_text(encoding="utf-8"))
    validate(alone)
    assert alone["comparisons"] == []
    with pytest.raises(jsonschema.ValidationError):
        validate({**found, "comparisons": [{}]})


def test_model_card_yaml_is_read_by_the_hub(built: tuple[Run, Path]) -> None:
    summary = json.loads((built[1] / "summary.json").read_text(encoding="utf-8"))
    index = yaml.safe_load((built[1] / "model-index.yaml").read_text(encoding="utf-8"))
    (name,) = (model["name"] for model in index["model-index"])
    card = ModelCardData(model_name=name, **index)
    assert card.eval_results
    first = card.eval_results[0]
    assert isinstance(first, EvalResult)
    assert (first.metric_type, first.task_type) == ("net_win_rate_flaws", "text-to-image")
    net = summary["comparisons"][0]["votes"][0]["net"]
    assert first.metric_value == net["value"]
    assert percent(net["low"], True) in (first.metric_name or "")
    entries = parse_eval_result_entries(yaml.safe_load((built[1] / "eval_results.yaml").read_text(encoding="utf-8")))
    assert len(entries) == len(card.eval_results)
    assert "simulated annotators" in (entries[0].notes or "")
    assert entries[0].value == net["value"]


def test_yaml_quotes_whatever_could_be_structure() -> None:
    odd = {"a": ["- b: c", "yes", "null", "1", "#x", "a\nb: c", "é\u2028"], "on": {"k:": -0.5, "n": None, "e": []}}
    assert yaml.safe_load(emit(odd)) == odd


def test_latex_is_a_booktabs_table_with_names_escaped(built: tuple[Run, Path], tmp_path: Path) -> None:
    text = (built[1] / "table.tex").read_text(encoding="utf-8")
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 2
    assert r"noise\_flaw" in text
    body = "".join(line for line in text.splitlines() if not line.startswith("%"))
    assert "−" not in body and "%" not in body.replace(r"\%", "")
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {line.count(" & ") for line in rows} == {5, 6}
    assert tex("a_b & 50% {\\x} ~^#$") == (
        r"a\_b \& 50\% \{\textbackslash{}x\} \textasciitilde{}\textasciicircum{}\#\$"
    )
    if shutil.which("pdflatex") is None:
        return
    document = "\\documentclass{article}\\usepackage{booktabs,amssymb}\\begin{document}\\input{table}\\end{document}"
    (tmp_path / "main.tex").write_text(document)
    shutil.copy(built[1] / "table.tex", tmp_path)
    subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "main.tex"], cwd=tmp_path, check=True)


def test_gallery_is_ordered_by_votes_and_shows_marks(built: tuple[Run, Path]) -> None:
    run, folder = built
    found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    groups = {group["order"]: group["exhibits"] for group in found["gallery"]}
    assert next(iter(groups)) == "won"
    assert set(groups) == {"won", "lost", "contested", "flawed", "against", "drawn"}

    def net(exhibit: dict) -> float:
        votes = exhibit["votes"]
        return sum(v["win"] - v["loss"] for v in votes) / sum(v["win"] + v["neither"] + v["loss"] for v in votes)

    for exhibit in groups["against"]:
        change = exhibit["value"]["candidate"] - exhibit["value"]["baseline"]
        (flaws,) = (vote for vote in exhibit["votes"] if vote["question"] == "flaws")
        assert (flaws["win"] - flaws["loss"]) * -change < 0, "the flaw metric prefers the lower value"
    won, lost = ([net(e) for e in groups[order]] for order in ("won", "lost"))
    assert won == sorted(won, reverse=True)
    assert lost == sorted(lost)
    assert min(won) > 0 > max(lost)
    marks = [sum(3 if m["severity"] == "major" else 1 for m in e["candidate_marks"]) for e in groups["flawed"]]
    assert marks == sorted(marks, reverse=True)
    assert marks[0] > 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count('class="marks"') > 0
    assert '<rect x="25%" y="50%" width="20%" height="10%" class="major"><title>major anatomy</title></rect>' in page
    assert '<circle cx="70%" cy="30%" r="8" class="minor"><title>minor blur</title></circle>' in page
    assert found["protocol"]["marks"] == 2 * sum(bool(v.marks) for v in run.votes())


def test_full_pages_hold_the_files_themselves(built: tuple[Run, Path], tmp_path: Path) -> None:
    import base64

    page = build_report(ReportConfig((built[0].path,), out=tmp_path, full=True)).read_text(encoding="utf-8")
    shown = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["gallery"][0]["exhibits"][0]
    file = built[0].path / shown["pairing"]["baseline"]["path"]
    assert base64.b64encode(file.read_bytes()).decode() in page


def test_leaderboard_ranks_runs_by_sets_and_says_what_is_not_comparable(
    built: tuple[Run, Path], tmp_path: Path
) -> None:
    strong = make_run(tmp_path / "strong<b>", strength=1.0)
    weak = make_run(tmp_path / "weak", strength=0.1)
    page = build_report(ReportConfig((weak.path, strong.path), out=tmp_path / "board", leaderboard=True))
    board = json.loads((page.parent / "leaderboard.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in board["rows"]] == ["strong<b>", "weak"]
    (flaw,) = (column for column in board["columns"] if column["key"] == FLAW)
    assert [(cell["best"], cell["worst"]) for cell in flaw["cells"]] == [(1, 1), (2, 2)]
    (own,) = (column for column in board["columns"] if column["key"] == "alignment")
    assert [(cell["best"], cell["worst"]) for cell in own["cells"]] == [(1, 2), (1, 2)]
    text = page.read_text(encoding="utf-8")
    assert "strong&lt;b&gt;" in text
    assert "simulated annotators" in text
    assert "default-src 'none'" in text
    other = make_run(tmp_path / "other", prompts=8)
    samples = [replace(s, generator="another") if s.label == "base" else s for s in other.samples()]
    other.write_samples(samples)
    told = build_report(ReportConfig((strong.path, other.path), out=tmp_path / "two", leaderboard=True))
    text = told.read_text(encoding="utf-8")
    assert "2 different baselines" in text
    assert "differ in their prompts" in text
    bare = make_run(tmp_path / "bare", prompts=2)
    bare.write_samples([s for s in bare.samples() if s.label == "base"])
    with pytest.raises(InputError, match="no baseline"):
        build_report(ReportConfig((bare.path,), leaderboard=True, out=tmp_path / "three"))


def test_hostile_texts_reach_no_twin_as_markup(built: tuple[Run, Path]) -> None:
    for name in ("report.html", "report.md"):
        text = (built[1] / name).read_text(encoding="utf-8")
        assert HOSTILE[0] not in text
        assert "<img src=x" not in text


PAIRS = [("ink", "bg"), ("ink", "panel"), ("soft", "bg"), ("soft", "panel"), ("link", "bg"), ("link", "panel"),
         ("better", "bg"), ("better", "panel"), ("worse", "bg"), ("worse", "panel"), ("worse", "warn-bg"),
         ("ink", "warn-bg"), ("on", "better"), ("on", "worse"), ("on", "link"), ("tie-ink", "tie"),
         ("bad-ink", "bad")]  # fmt: skip
"""Text and what it stands on."""


def test_text_has_the_contrast_of_wcag_aa_in_light_dark_and_print() -> None:
    style = (Path(reports.__file__).parent / "page" / "style.css").read_text(encoding="utf-8")
    roots = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    themes = [dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{3,6});", root)) for root in roots]
    assert len(themes) == 3
    for theme in themes:
        for text, ground in PAIRS:
            light = sorted(brightness(theme[name]) for name in (text, ground))
            assert (light[1] + 0.05) / (light[0] + 0.05) >= 4.5, (text, ground, theme[text], theme[ground])
        for mark in ("better", "worse", "third", "fourth", "warn-line"):  # lines and borders need 3
            light = sorted(brightness(theme[name]) for name in (mark, "bg"))
            assert (light[1] + 0.05) / (light[0] + 0.05) >= 3, mark


def brightness(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_runs_record_the_commit_of_their_code(tmp_path: Path) -> None:
    info = Run.create(tmp_path / "run", "generate", {}).info
    here = Path(reports.__file__).parents[1]
    asked = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if asked.returncode == 0 and (here / ".git").exists():
        assert re.fullmatch(asked.stdout[:12] + "(, changed)?", info["commit"])
    else:
        assert "commit" not in info
