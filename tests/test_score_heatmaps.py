"""``pixeval score --heatmaps``: overlays per flaw metric and image, made once, failing one by one."""

import json
from pathlib import Path

import pytest
import torch

from pixeval import cli
from pixeval.catalog import CATALOG
from pixeval.images import read_image, write_png
from pixeval.runs import Run
from pixeval.scoring.heatmap_overlay import LEAST_WIDTH, STRIP, captioned, overlay
from pixeval.validation.drawn_images import drawn_image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "images"
    for seed in range(3):
        write_png(drawn_image(seed, 48 + 8 * seed), target / f"{seed}.png")
    write_png(drawn_image(9, 8), target / "tiny.png")
    (target / "broken.png").write_bytes(b"\x89PNG no")
    return target


def score(folder: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    metrics = ["--metrics", "sharpness", "noise_flaw", "blank_flaw"]
    # the exit code, which tells of the two files without a value, is not the subject here
    assert cli.run(["score", str(folder), *metrics, "--out", str(out), "--heatmaps", "--json"]) < 2
    found: dict[str, object] = json.loads(capsys.readouterr().out)["heatmaps"]
    return found


def test_overlays_are_written_once(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    first = score(folder, out, capsys)
    assert (first["written"], first["there"]) == (6, 0)
    failed = first["failed"]
    assert isinstance(failed, dict)
    assert sum(failed.values()) == 4
    assert any("smaller than the 16 pixels" in reason for reason in failed)
    assert any("broken.png" in reason for reason in failed)
    ids = {sample.path: sample.id for sample in Run.open(out).samples()}
    laid = read_image(out / "heatmaps" / "blank_flaw" / f"{ids['1.png']}.png")
    assert laid.shape == (3, 56 + STRIP, LEAST_WIDTH)
    assert torch.equal(laid[:, :56, 56:], torch.ones(3, 56, LEAST_WIDTH - 56))
    assert not (out / "heatmaps" / "sharpness").exists()

    files = sorted((out / "heatmaps").rglob("*.png"))
    stamps = {file: file.stat().st_mtime_ns for file in files}
    files[0].unlink()
    second = score(folder, out, capsys)
    assert (second["written"], second["there"]) == (1, 5)
    assert [file for file in files if file.stat().st_mtime_ns != stamps[file]] == [files[0]]

    (out / "heatmaps" / "noise_flaw" / "fingerprint.txt").write_text("noise_flaw/0")
    third = score(folder, out, capsys)
    assert (third["written"], third["there"]) == (3, 3)


def test_without_the_switch_there_are_none(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert cli.run(["score", str(folder), "--metrics", "blank_flaw", "--out", str(out), "--json"]) < 2
    assert "heatmaps" not in json.loads(capsys.readouterr().out)
    assert not (out / "heatmaps").exists()


def test_heat_is_drawn_in_the_scale_of_its_metric_with_the_score_below() -> None:
    image = drawn_image(3, 200)
    heat = torch.linspace(0, 1, 200).expand(200, -1)
    torch.testing.assert_close(overlay(image, 0.2 * heat, full=0.2), overlay(image, heat))
    magenta = overlay(image, heat)[0] - overlay(image, heat)[1]
    assert (magenta.diff(dim=-1) > -1e-3).float().mean() > 0.9
    assert magenta[:, 100:].min() > 0.4
    first, second, other = (
        captioned(overlay(image, heat), "blur_flaw", v, f) for v, f in ((0.1, 1), (0.2, 1), (0.1, 0.5))
    )
    assert first.shape == (3, 200 + STRIP, 200)
    bar = first[:, 200:][:, 22, 44:116]
    torch.testing.assert_close(bar[0] - bar[1], (bar[0] - bar[1]).cummax(0).values)
    for one in (second, other):
        assert torch.equal(first[:, :200], one[:, :200])
        assert not torch.equal(first, one)
    assert all(0 < spec.full_heat <= 1 for spec in CATALOG)
