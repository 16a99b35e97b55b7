"""A reward that is given as an object in Python, and what the log says of rewards that not every image has."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_data import save_captioned, save_pairs
from tiny_models import CAPTIONS, save_tiny
from torch import Tensor

from pixeval.errors import InputError
from pixeval.runs import Run
from trainers.preference import PreferenceConfig, train_preference
from trainers.reward import RewardConfig
from trainers.sft import SftConfig, train_sft
from trainers.training_log import read_log

ALWAYS = RewardConfig(weight=0.5, band=(0.0, 1.0))


class Redness:
    """A Scorer of one's own; remembers what it was asked."""

    fingerprint = "redness/1"

    def __init__(self) -> None:
        self.asked: list[Sequence[str]] = []

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        assert images.requires_grad and bool(((images >= 0) & (images <= 1)).all())
        self.asked.append(prompts or ())
        return images[:, 0].mean((1, 2))


class Five(Redness):
    """Finds nothing in images without a prompt, and all others equally good."""

    fingerprint = "five/1"

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        return 0 * super().__call__(images, prompts) + 5

    def hindrance(self, prompt: str) -> str | None:
        return None if prompt else "there is no prompt"


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("world")
    save_captioned(root / "sft")
    save_pairs(root / "pairs")
    return {
        "model": save_tiny("sd-epsilon", root / "model"), "data": root / "sft", "steps": 2, "batch_size": 2,
        "objective": "latent", "device": "cpu", "self_test": False, "tracker": "none",
    }  # fmt: skip


def test_a_scorer_of_ones_own_is_maximised_in_sft(common: dict[str, Any], tmp_path: Path) -> None:
    scorer = Redness()
    run = train_sft(SftConfig(**common, out=tmp_path / "run", reward=ALWAYS, caption_dropout=0.0), reward=scorer)
    for line in read_log(run):
        assert line["rewarded"] == 1
        assert line["loss"] == pytest.approx(line["latent_error"] - 0.5 * line["reward"], rel=1e-5)
    assert [len(prompts) for prompts in scorer.asked] == [2, 2]
    assert {prompt for prompts in scorer.asked for prompt in prompts} <= set(CAPTIONS)
    assert run.info["reward_scorer"] == "redness/1"


def test_a_scorer_of_ones_own_judges_winners(common: dict[str, Any], tmp_path: Path) -> None:
    scorer, pairs = Redness(), common["data"].with_name("pairs")
    config = PreferenceConfig(**{**common, "data": pairs}, out=tmp_path / "run", reward=ALWAYS)
    for line in read_log(train_preference(config, reward=scorer)):
        assert line["loss"] == pytest.approx(line["latent_loss"] - 0.5 * line["reward"], rel=1e-5)
    assert [len(prompts) for prompts in scorer.asked] == [2, 2], "two winners and no loser"


def test_another_reward_does_not_continue_a_run(common: dict[str, Any], tmp_path: Path) -> None:
    config = SftConfig(**common, out=tmp_path / "run", reward=ALWAYS)
    train_sft(config, reward=Redness())
    log = (tmp_path / "run/metrics.jsonl").read_bytes()
    for other in (Five(), None):
        with pytest.raises(InputError, match="redness/1"):
            train_sft(config, reward=other)
    assert len(read_log(train_sft(config, reward=Redness()))) == 2
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == log
    assert Run.open(tmp_path / "run").info["reward_scorer"] == "redness/1"


def test_two_rewards_and_a_weight_of_nothing_are_refused(common: dict[str, Any], tmp_path: Path) -> None:
    config = SftConfig(**common, out=tmp_path / "run", reward=replace(ALWAYS, metric="contrast"))
    with pytest.raises(InputError, match="not both"):
        train_sft(config, reward=Redness())
    with pytest.raises(InputError, match=r"reward\.weight must be positive"):
        train_sft(replace(config, reward=RewardConfig(weight=0.0)), reward=Redness())
    assert not (tmp_path / "run").exists()


def test_the_log_has_the_mean_over_rewarded_images(common: dict[str, Any], tmp_path: Path) -> None:
    """However many images of a step have a reward; none where none has one."""
    settings = {**common, "batch_size": 1, "accumulate": 2, "steps": 12}
    config = SftConfig(**settings, out=tmp_path / "run", reward=replace(ALWAYS, band=(0.0, 0.5)), caption_dropout=0.2)
    log = read_log(train_sft(config, reward=Five()))
    shares = [line["rewarded"] for line in log]
    assert set(shares) == {0.0, 0.5, 1.0}
    assert [line.get("reward") for line in log] == [5.0 if share else None for share in shares]
    for line in log:
        assert line["loss"] == pytest.approx(line["latent_error"] - 0.5 * 5 * line["rewarded"], abs=1e-5)
