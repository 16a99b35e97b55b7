"""TensorBoard is shown what the logs say; what it shows is read back by its own reader."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_data import save_captioned
from tiny_models import save_tiny

from trainers.sft import SftConfig, train_sft
from trainers.training_log import read_lines


def test_tensorboard_has_every_number_of_the_logs_at_its_step(tmp_path: Path) -> None:
    model, data = save_tiny("sd-epsilon", tmp_path / "model"), save_captioned(tmp_path / "data")
    run = train_sft(
        SftConfig(
            model=model, data=data, out=tmp_path / "run", steps=2, batch_size=2, device="cpu", self_test=False,
            tracker="tensorboard", probe_every=1, probe_rows=2,
        )
    )  # fmt: skip
    shown = EventAccumulator(str(run.path / "tensorboard"), size_guidance={"scalars": 0})
    shown.Reload()
    found = {(tag, event.step): event.value for tag in shown.Tags()["scalars"] for event in shown.Scalars(tag)}
    wanted = {
        (f"{part}/{name}", line["step"]): value
        for part, file in (("train", "metrics.jsonl"), ("held_out", "probes.jsonl"))
        for line in read_lines(run.path / file)
        for name, value in line.items()
        if name not in ("step", "rows")  # the errors of each row are for comparisons, not for curves
    }
    assert {step for tag, step in wanted if tag == "held_out/pixel_error"} == {0, 1, 2}
    assert {step for tag, step in wanted if tag == "train/loss"} == {1, 2}
    assert found == pytest.approx(wanted, rel=1e-6)
