"""What stops a run and what it is warned of: that it happens, and that it does not without a reason."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file
from tiny_data import save_captioned
from tiny_models import save_tiny
from torch import Tensor

import trainers.sft
from pixeval.close_loop import sft
from pixeval.images import read_image
from pixeval.pipelines import Sampler
from pixeval.records import Sample, Score, SetScore
from pixeval.rescore import Evaluation
from pixeval.runs import Run
from trainers.data_order import seeded
from trainers.families.detect import load
from trainers.reward import RewardConfig
from trainers.sft import SftConfig, train_sft
from trainers.tables import DatasetConfig
from trainers.training_log import read_lines
from trainers.tripwires import PATIENCE, LossGuard, diversity_collapse, reward_hacking, winner_errors_rising

CAPTIONS = [f"{colour} {thing}" for colour in ("a red", "a blue", "a green") for thing in ("apple", "car", "tree")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    save_tiny("sd-epsilon", root / "model")
    save_captioned(root / "data", CAPTIONS)
    (root / "suite.txt").write_text("\n".join(CAPTIONS) + "\n")
    return root


def test_a_loss_that_explodes_stops_and_a_restless_one_does_not() -> None:
    rng = random.Random(0)
    guard = LossGuard()
    # Errors by noise level differ by orders of magnitude when a batch is one image.
    assert not any(guard.add({"loss": 10 ** rng.uniform(-3, 0)}) for _ in range(3000))
    reasons = [guard.add({"loss": 50.0 + i}) for i in range(PATIENCE)]
    assert reasons[:-1] == [None] * (PATIENCE - 1)
    assert "above 10 times its median" in str(reasons[-1])
    assert not any(LossGuard(explosions=False).add({"loss": 2.0**i}) for i in range(50))


def test_what_is_no_number_stops() -> None:
    assert "nan" in str(LossGuard().add({"loss": float("nan")}))
    assert "inf" in str(LossGuard().add({"loss": 1.0, "gradient_norm": float("inf")}))
    assert LossGuard(scaled=True).add({"loss": 1.0, "gradient_norm": float("inf")}) is None


def test_a_stopped_run_tells_what_it_read_and_keeps_the_checkpoint_before(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, model = trainers.sft.sft_loss, load(world / "model")
    predict, asked = type(model).predict, dict[int, tuple[Tensor, Tensor]]()

    def breaking(*arguments: Any) -> Any:
        loss = make(*arguments)

        def broken(denoiser: Any, batch: int, generator: torch.Generator) -> Any:
            def watched(self: Any, z_t: Tensor, t: Tensor, *others: Any) -> Tensor:
                asked[batch] = z_t, t
                return predict(self, z_t, t, *others)

            with patch.object(type(model), "predict", watched):
                terms = loss(denoiser, batch, generator)
            return {**terms, "loss": terms["loss"] * (float("nan") if batch == 6 else 1)}

        return broken

    monkeypatch.setattr(trainers.sft, "sft_loss", breaking)
    config = SftConfig(
        model=world / "model", data=world / "data", out=tmp_path / "run", steps=8, batch_size=2, accumulate=2,
        device="cpu", self_test=False, checkpoint_every=2, keep_last=1, objective="latent",
        dataset=DatasetConfig(flip=True), probe_every=4, probe_rows=2,
    )  # fmt: skip
    with pytest.raises(FloatingPointError, match=r"nan at step 4.*stopped\.json"):
        train_sft(config)
    told = json.loads((config.out / "stopped.json").read_text())
    assert (told["step"], told["line"]["loss"]) == (4, "nan")
    rows = told["rows"]
    assert [row["batch"] for row in rows] == [6, 6, 7, 7]
    assert [row["name"] for row in rows] == [f"{CAPTIONS.index(row['prompt'])}.png" for row in rows]
    latents = load_file(config.out / "stopped_batch.safetensors")
    assert len(latents) == 2 * len(rows)
    for i, row in enumerate(rows):
        image = read_image(world / "data" / row["name"])[None] * 2 - 1
        expected = model.encode(image.flip(-1) if row["mirrored"] else image)
        for part, value in expected._asdict().items():
            torch.testing.assert_close(latents[f"{i}/image_{part}"], value[0], rtol=1e-4, atol=1e-5)
    for batch, numbers in ((6, (0, 1)), (7, (2, 3))):
        mean, std = (torch.stack([latents[f"{i}/image_{part}"] for i in numbers]) for part in ("mean", "std"))
        generator = seeded(told["seed"], "batch", batch)
        z, eps = mean + std * torch.randn(mean.shape, generator=generator), torch.randn(mean.shape, generator=generator)
        t = model.sample_timesteps(2, generator, (mean.shape[-2], mean.shape[-1]))
        a, s = model.coefficients(t, 4)
        assert torch.equal(t, asked[batch][1]) and torch.equal(a * z + s * eps, asked[batch][0])
    assert [path.name for path in (config.out / "checkpoints").iterdir()] == ["step-000002"]
    monkeypatch.undo()
    train_sft(config)
    assert not list(config.out.glob("stopped*"))


def falling(start: float, slope: float, n: int = 60) -> list[float]:
    rng = random.Random(1)
    return [start + slope * i + rng.gauss(0, 0.05) for i in range(n)]


def scored(path: Path, flaws: Callable[[str, int], float], metric: str = "clipping_flaw") -> Run:
    run = Run.create(path, "train", {})
    labels = ("base", "step-000060")
    samples = [
        Sample(f"{label}-{i}", label, f"p{i}", f"prompt {i}", 0, "g", f"{label}-{i}.png", "0")
        for label in labels
        for i in range(12)
    ]
    run.write_samples(samples)
    run.write_scores([Score(s.id, metric, flaws(s.label, int(s.id.split("-")[-1])), None, "f") for s in samples])
    return run


def worse(label: str, i: int) -> float:
    return 0.1 + 0.01 * i + (0.05 + 0.002 * i if label != "base" else 0)


def restless(label: str, i: int) -> float:
    return 0.1 + random.Random(f"{label}{i}").gauss(0, 0.02)


@pytest.mark.parametrize(
    ("slope", "flaws", "warned"),
    [(0.02, worse, True), (0.02, restless, False), (0.0, worse, False), (-0.02, worse, False)],
)
def test_reward_hacking_needs_a_rising_reward_and_more_flaws(
    slope: float, flaws: Any, warned: bool, tmp_path: Path
) -> None:
    run = scored(tmp_path / "run", flaws)
    lines = [{"reward": value, "rewarded": 1.0} for value in falling(0.2, slope)]
    found = reward_hacking(run, "step-000060", lines, "contrast")
    assert [w.name for w in found] == (["reward_hacking"] if warned else [])
    margins = [{"pixel_margin": value} for value in falling(0.0, slope)]
    assert bool(reward_hacking(run, "step-000060", margins, None)) == warned
    fewer = [{"reward": -line["reward"], "rewarded": 1.0} for line in lines]
    assert not reward_hacking(run, "step-000060", fewer, "clipping_flaw"), "this flaw is what is trained on"
    assert bool(reward_hacking(run, "step-000060", fewer, "noise")) == warned, "a reward that is better when lower"


def test_a_reward_that_is_not_trained_on_gives_hacking_away(tmp_path: Path) -> None:
    """Higher is better for it, so here it falls."""
    run = scored(tmp_path / "run", lambda label, i: -worse(label, i), "reward_held_out")
    lines = [{"reward": value, "rewarded": 1.0} for value in falling(0.2, 0.02)]
    (found,) = reward_hacking(run, "step-000060", lines, "reward")
    assert "judgements of step-000060 get worse" in found.text and "reward_held_out by -" in found.text
    better = scored(tmp_path / "better", worse, "reward_held_out")
    assert not reward_hacking(better, "step-000060", lines, "reward")


@pytest.mark.parametrize(("slope", "warned"), [(0.01, True), (0.0, False), (-0.01, False)])
def test_rising_winner_errors(slope: float, warned: bool) -> None:
    lines = [{"latent_winner_error": value} for value in falling(0.5, slope)]
    assert bool(winner_errors_rising(lines, [])) == warned
    rng = random.Random(2)

    def look(shift: float) -> dict[str, Any]:
        rows = [0.5 + 0.1 * i + shift + rng.gauss(0, 0.02) for i in range(16)]
        return {"pixel_winner_error": sum(rows) / 16, "rows": {"pixel_winner_error": rows}}

    assert bool(winner_errors_rising([], [look(0), look(10 * slope)])) == warned


def vendi(label: str, value: float) -> SetScore:
    return SetScore(label, "vendi_score", value, value - 0.5, value + 0.5, 16, "", None, "f")


@pytest.mark.parametrize(("value", "warned"), [(3.0, True), (7.4, False), (9.0, False)])
def test_loss_of_diversity(value: float, warned: bool, tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "train", {})
    run.write_set_scores([vendi("base", 8.0), vendi("step-000060", value)])
    assert [w.name for w in diversity_collapse(run, "step-000060")] == (["diversity_collapse"] if warned else [])


def trained(world: Path, out: Path, **changes: Any) -> Sequence[dict[str, Any]]:
    config = SftConfig(
        model=world / "model", data=world / "data", out=out, steps=40, batch_size=4, checkpoint_every=40,
        learning_rate=3e-3, device="cpu", self_test=False, objective="latent", evaluate=str(world / "suite.txt"),
        evaluation=Evaluation(sampler=Sampler(steps=3, guidance=1.0), metrics=("flaws", "vendi_score")),
    )  # fmt: skip
    return read_lines(sft(replace(config, **changes)).path / "warnings.jsonl")


def test_a_hacked_run_is_warned_of_and_an_ordinary_one_is_not(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained(world, tmp_path / "ordinary") == []
    reward = RewardConfig(metric="colourfulness", weight=1.0, band=(0.0, 1.0))
    (found,) = trained(world, tmp_path / "hacked", reward=reward)
    assert found["warning"] == "reward_hacking"
    assert found["flaws"]["oversaturation_flaw"][0] > 0
    assert "reward_hacking" in capsys.readouterr().err
