"""The loop with learned rewards on tiny models: votes, a reward, labelled pairs, tuning in pixel space against it, and
the result judged by a reward that was not trained against and by flaw detectors."""

from pathlib import Path

from tiny_clip import write_tiny_clip
from tiny_models import save_tiny
from tiny_votes import run_with_votes

from pixeval.close_loop import preference
from pixeval.pairs import PairsConfig, make_pairs
from pixeval.pipelines import Sampler
from pixeval.rescore import Evaluation
from pixeval.scoring.evaluate import score_run
from reward_models.train import RewardTrainConfig, train
from trainers.preference import PreferenceConfig
from trainers.reward import RewardConfig
from trainers.training_log import read_log


def test_from_votes_to_a_tuned_model_that_another_reward_judges(tmp_path: Path) -> None:
    run = run_with_votes(tmp_path / "run", 30, ("ann",))
    clip = str(write_tiny_clip(tmp_path / "clip"))
    other = str(write_tiny_clip(tmp_path / "other", seed=1))
    for name, encoder in (("first", clip), ("second", other)):
        train(RewardTrainConfig((run.path,), tmp_path / name, encoder, ("crops",), members=2, steps=20, planted=0.0))
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    score_run(run, ["reward"], weights={"reward": first})
    made = make_pairs(PairsConfig((run.path,), tmp_path / "pairs", "score:reward", temperature=1.0))
    assert made["pairs"] == 30
    save_tiny("sd-epsilon", tmp_path / "model")
    (tmp_path / "suite.txt").write_text("a red apple\na blue car\n")
    weights = (f"reward={first}", f"reward_held_out={second}")
    scored = ("reward", "reward_held_out", "flaws")
    tuned = preference(
        PreferenceConfig(
            model=tmp_path / "model",
            data=tmp_path / "pairs",
            out=tmp_path / "tuned",
            steps=2,
            batch_size=2,
            checkpoint_every=2,
            device="cpu",
            self_test=False,
            reward=RewardConfig("reward", band=(0.0, 1.0), weights=Path(first)),
            evaluate=str(tmp_path / "suite.txt"),
            evaluation=Evaluation((1,), Sampler(steps=2), metrics=scored, weights=weights),
        )
    )
    assert any(line.get("rewarded", 0) > 0 for line in read_log(tuned))
    labels = {sample.id: sample.label for sample in tuned.samples()}
    found = {(labels[s.sample_id], s.metric) for s in tuned.scores() if s.value is not None}
    for label in ("base", "step-000002"):
        assert {(label, "reward"), (label, "reward_held_out"), (label, "blur_flaw")} <= found
    assert {s.fingerprint for s in tuned.scores() if s.metric == "reward"}.isdisjoint(
        {s.fingerprint for s in tuned.scores() if s.metric == "reward_held_out"}
    )
