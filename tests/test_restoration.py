"""The measurement of one-step image to image: its tasks, and that it goes on and ends in a table and a picture."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_models import save_tiny

from trainers.curves.restoration import ARMS, TASKS, Measurement, Study, edges, write_page


def test_edges_are_dark_lines_where_brightness_changes() -> None:
    images = torch.ones(1, 3, 16, 16)
    images[..., 8:] = 0
    found = edges(images)
    assert found.shape == images.shape
    assert bool((found[..., 7:9] == 0).all()), "half of the way from black to white per pixel"
    assert bool((found[..., :6] == 1).all()) and bool((found[..., 10:] == 1).all())


def test_a_measurement_goes_on_and_is_written_down(tmp_path: Path) -> None:
    study = Study(save_tiny("sd-epsilon", tmp_path / "model"), seeds=1, steps=1, batch_size=2, icons=3, held_out=4)
    out = tmp_path / "out"
    first = Measurement(out, study).measure(trainings=1)
    assert set(first) == {"deblurring/input", "deblurring/target through the VAE", "deblurring/task alone/0"}
    first["deblurring/task alone/0"]["seconds"] = "kept"
    (out / "numbers.json").write_text(json.dumps(first))
    found = Measurement(out, study).measure()
    assert found["deblurring/task alone/0"]["seconds"] == "kept", "what is there is not measured again"
    assert {f"{task}/{arm}/0" for task in TASKS for arm in ARMS} < set(found)
    assert not (out / "run").exists()
    write_page(found, study, out)
    written = (out / "tables.md").read_text()
    psnr = torch.tensor(found["edges/with the preserver/0"]["psnr"])
    assert len(psnr) == 4 and f"| edges | with the preserver | {psnr.mean():.1f} (" in written
    change = float(psnr.mean()) - float(torch.tensor(found["edges/task alone/0"]["psnr"]).mean())
    (line,) = (one for one in written.splitlines() if one.startswith("| edges | what the preserver changes"))
    assert float(line.split("|")[3].split()[0].replace("−", "-")) == pytest.approx(change, abs=0.006)
    with Image.open(out / "training_restoration.webp") as picture:
        assert picture.height > picture.width, "two tasks of four rows"
