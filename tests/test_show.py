"""What low, middle and high values look like: anchors in the metric's direction, own images, the page."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pixeval import anchor_material, anchors, cli
from pixeval.anchor_material import (
    CHANGED_BY,
    DRIFTS,
    captioned_icons,
    change_of,
    drifted,
    graded_images,
)
from pixeval.anchors import Anchors, compute_anchors
from pixeval.catalog import CATALOG, find
from pixeval.metric_spec import FAMILIES
from pixeval.own_scores import quantile_interval
from pixeval.validation.clean_images import CleanImage, clean_images
from pixeval.validation.drawn_images import drawn_image

CHROMIUM = Path("/usr/bin/chromium")
FEW = ("astronaut-0", "camera-0", "chelsea-0", "icons-0", "drawn-200", "unet-0")


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handful of the clean images instead of all."""

    def few(split: Any) -> list[CleanImage]:
        return [image for image in clean_images(split) if image.name in FEW]

    monkeypatch.setattr(anchor_material, "clean_images", few)


def run_json(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = cli.run([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_every_metric_can_be_shown() -> None:
    """What its anchors are made of is decided for every metric, and worse by name only where it can be made worse."""
    for spec in CATALOG:
        if spec.family == "distribution":
            assert spec.name in DRIFTS, "say in anchor_material.DRIFTS how sets drift apart for it"
        elif spec.family == "flaws" or spec.family in ("quality", "reference"):
            detector = anchor_material.AS_FOR.get(spec.name, spec.name)
            detects = any(flaw.detector == detector for flaw in anchor_material.PLANTED)
            assert detects or spec.name in CHANGED_BY, (
                "say in anchor_material.CHANGED_BY what makes images worse for it"
            )
            assert len(change_of(spec).amounts) == 5
    names = {spec.name for spec in CATALOG}
    assert names >= set(CHANGED_BY) | set(DRIFTS)


@pytest.mark.usefixtures("few_images")
@pytest.mark.parametrize(
    "name",
    [
        "sharpness",
        "noise",
        "contrast",
        "colourfulness",
        "blur_flaw",
        "noise_flaw",
        "oversaturation_flaw",
        "psnr",
        "ssim",
    ],
)
def test_anchors_follow_the_direction(name: str) -> None:
    found = compute_anchors(find(name))
    check_order(found, find(name).higher_is_better)
    if find(name).family == "flaws":
        heats = [picture.heat for picture in found.series[0].pictures]
        assert all(heat is not None and heat.shape == (160, 160) for heat in heats)
        assert found.series[0].mask is not None
    assert {one.kind for one in found.series} >= {"photograph", "drawing"}


def check_order(found: Anchors, higher_is_better: bool) -> None:
    assert found.follows
    low, middle, high = (picture.value for picture in found.ends)
    assert low is not None and middle is not None and high is not None
    assert low < middle < high
    titles = [picture.title for picture in found.series[0].pictures if picture.value is not None]
    best, worst = (found.ends[2], found.ends[0]) if higher_is_better else (found.ends[0], found.ends[2])
    assert (best.title, worst.title) == (titles[0], titles[-1])
    medians = [degree.median for degree in found.degrees if degree.median is not None]
    assert (medians[0] > medians[-1]) == higher_is_better


def test_right_captions_score_better_than_wrong_ones() -> None:
    found = compute_anchors(find("clip_score"))
    check_order(found, True)
    own, near, other = (degree.median for degree in found.degrees)
    assert own is not None and near is not None and other is not None
    assert other < near
    for icon in captioned_icons():
        words = [set(caption.split()) for caption in icon.captions]
        assert len(set(icon.captions)) == 3
        assert not words[0] & words[2]
        assert words[0] & words[1]


@pytest.mark.parametrize("name", ["vendi_score", "spectrum_distance", "cmmd", "coverage"])
def test_sets_drift_apart(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchors, "LEAST_SET", 48)
    found = compute_anchors(find(name))
    check_order(found, find(name).higher_is_better)
    assert found.series[0].pictures[0].pixels.shape == (3, 320, 320)


def test_drifted_sets_hold_what_they_say() -> None:
    assert drifted(10, "blurred", 0.0) == list(range(10))
    assert drifted(10, "blurred", 1.0) == list(range(10, 20))
    assert sum(place >= 10 for place in drifted(10, "negative", 0.4)) == 4
    assert len(set(drifted(10, "repeated", 0.8))) == 2
    assert len(drifted(10, "repeated", 1.0)) == 10
    assert len(set(drifted(10, "repeated", 1.0))) == 1


@pytest.mark.usefixtures("few_images")
def test_the_same_pattern_at_every_strength() -> None:
    (image, *_) = graded_images(find("noise"))
    weak, strong = (image.versions[level] - image.versions[0] for level in (1, 5))
    inside = ((image.versions > 0.1) & (image.versions < 0.9)).all(0)
    together = torch.corrcoef(torch.stack((weak[inside], strong[inside])))
    assert float(together[0, 1]) > 0.9


def test_the_list_and_the_help_import_no_torch() -> None:
    code = "import sys; from pixeval.cli import run; run(['show']); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *listed, torch_there = result.stdout.splitlines()
    assert torch_there == "False"
    assert set(FAMILIES) <= set(listed)
    assert any(line.strip().startswith("blur_flaw ") for line in listed)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["show", "blurflaw"], "Did you mean 'blur_flaw'"),
        (["show", "noise", "--weights", "lpips=x.safetensors"], "--weights names lpips, but noise is shown"),
        (["show", "noise", "--prompts", "x.csv"], "--prompts goes with your own images"),
        (["show", "noise", "--images", "nowhere"], "nowhere"),
        (["show", "noise", "--device", "nothing"], "device 'nothing'"),
        (["show", "lpips", "--weights", "lpips=x.safetensors"], "cannot read the weights"),
    ],
)
def test_bad_input_exits_with_2(
    words: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(words) == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_weights_the_entry_and_how_to_give_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, found = run_json(["show", "laion_aesthetic"], capsys)
    assert code == 0
    assert found["anchors"] is None
    assert "--weights laion_aesthetic=PATH" in found["missing"]
    assert found["metric"]["citation"] == find("laion_aesthetic").citation
    assert "--weights laion_aesthetic=PATH" in (tmp_path / "show/laion_aesthetic.html").read_text()


@pytest.mark.usefixtures("few_images")
def test_with_weights_the_anchors_are_computed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    head = tmp_path / "head.safetensors"
    save_file({"weight": torch.randn(1, 192), "bias": torch.zeros(1)}, head)
    words = ["show", "laion_aesthetic", "--weights", f"laion_aesthetic={head}", "--page", str(tmp_path / "p.html")]
    code, found = run_json(words, capsys)
    assert code == 0
    assert found["missing"] is None
    assert found["anchors"]["degrees"][0]["median"] is not None


def test_quantile_intervals_are_those_of_the_binomial() -> None:
    # the textbook interval of the median of 20: between the 6th and the 15th value, covering 95.9 %
    assert quantile_interval(list(range(1, 21)), 0.5) == (6, 15)
    assert quantile_interval([1.0, 2.0, 3.0], 0.5) == (None, None)
    assert quantile_interval(list(range(100)), 0.0) == (None, None)
    rng = np.random.default_rng(0)
    covered = [
        low <= 0.25 <= high for low, high in (quantile_interval(np.sort(rng.random(40)), 0.25) for _ in range(400))
    ]
    assert 0.93 <= np.mean(covered) <= 0.995


HOSTILE = "<img src=x onerror=alert(1)>&\"'\u202egnp.png"


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    """A drawing with ever more noise, the noisiest one under a hostile name, and one truncated file."""
    folder = tmp_path / "mine <b>"
    folder.mkdir()
    rng = np.random.default_rng(0)
    pixels = (drawn_image(300, 64) * 255).byte().permute(1, 2, 0).numpy().astype(float)
    for number in range(10):
        noisy = np.clip(pixels + rng.normal(0, 4 * number, pixels.shape), 0, 255).astype(np.uint8)
        name = HOSTILE if number == 9 else f"{number}.png"
        Image.fromarray(noisy).save(folder / name)
    whole = (folder / "0.png").read_bytes()
    (folder / "broken.png").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.mark.usefixtures("few_images")
def test_own_images_with_a_truncated_one(
    own_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, found = run_json(["show", "noise_flaw", "--images", str(own_folder)], capsys)
    own = found["images"]
    assert code == 1, "one file could not be read"
    assert own["n"] == 10
    assert [row["n"] for row in own["missing"]] == [1]
    assert "broken.png" in own["missing"][0]["reason"]
    values = [row["value"] for row in own["images"]]
    assert values == sorted(values)
    assert values[0] < values[-1]
    assert own["low"] <= own["mean"] <= own["high"]
    assert own["images"][2]["low"] <= values[2] <= own["images"][2]["high"]
    assert sum(own["histogram"]) == 10
    assert own["images"][-1]["file"] == HOSTILE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine <b>", "show"]
    page = Path(found["page"]).read_text()
    assert found["page"] == "show/noise_flaw.html"
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in page
    assert "mine <b>" not in page
    assert "\u202e" not in page
    assert page.count("data:image/webp;base64,") >= 2 * (3 + 6 + 5)
    assert "http://" not in page
    assert "https://" not in page
    # the printed form of the same
    assert cli.run(["show", "noise_flaw", "--images", str(own_folder)]) == 1
    printed = capsys.readouterr().out
    for words in ("noise_flaw  ↓ lower is better", "caution", "middle", "upper quartile", "show/noise_flaw.html"):
        assert words in printed


@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Chromium")
@pytest.mark.usefixtures("few_images")
def test_the_page_in_a_browser(own_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Readable at both widths, nothing is requested, nothing runs."""
    page = tmp_path / "page.html"
    words = ["show", "noise_flaw", "--images", str(own_folder), "--page", str(page)]
    assert run_json(words, capsys)[0] == 1
    from playwright.sync_api import sync_playwright

    asked: list[str] = []
    said = SimpleNamespace(lines=[])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        for width, scheme in ((1440, "light"), (390, "dark")):
            context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
            tab = context.new_page()
            tab.on("dialog", lambda dialog: (said.lines.append(dialog.message), dialog.dismiss()))
            tab.on("console", lambda message: said.lines.append(message.text))
            tab.on("request", lambda request: asked.append(request.url))
            tab.goto(page.as_uri())
            assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), width
            assert tab.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
            context.close()
        browser.close()
    assert said.lines == []
    assert {url.partition(":")[0] for url in asked} <= {"data", "file"}
    assert sum(url.startswith("file:") for url in asked) == 2
