"""The training of reward models: what it keeps, what it refuses, and whether its own figures can be believed."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_clip import write_tiny_clip
from tiny_votes import run_with_votes

from pixeval.catalog import find, load
from pixeval.errors import InputError
from pixeval.records import Vote
from pixeval.runs import Run
from pixeval.tables import write_records
from pixeval.validation.clean_images import clean_images
from pixeval.validation.planted_flaws import PLANTED
from pixeval.zoo.icons import load_icons
from reward_models import planted as planted_comparisons
from reward_models import train as training
from reward_models.evaluate import judge
from reward_models.findings import weighted_by_question
from reward_models.inputs import Frozen, Tuned, tabulate, view_features
from reward_models.judgements import Judgement, Picture, picture_of, read_judgements
from reward_models.model import HEADS, RewardModel
from reward_models.planted import TAG, planted_judgements, png_of
from reward_models.train import Diverged, RewardTrainConfig, fit, fold_of, render, train

OVERALL = HEADS.index("overall")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_clip(tmp_path_factory.mktemp("training") / "clip"))


@pytest.fixture
def settings(clip: str, tmp_path: Path) -> RewardTrainConfig:
    """Of a quick training on a run of its own."""
    run = run_with_votes(tmp_path / "run", 12, ("ann", "bo"))
    quick = {"members": 2, "steps": 4, "checkpoint_every": 2, "folds": 2, "planted": 0.0, "cache": "none"}
    return RewardTrainConfig((run.path,), tmp_path / "out", clip, ("crops",), **quick)  # type: ignore[arg-type]


def vote_again(run: Run, annotator: str) -> None:
    """One more vote on the first pair."""
    head = run.votes()[0]
    write_records(run.path / "votes" / "later.parquet", [replace(head, id="later", annotator=annotator)], Vote)


def picture(seed: int) -> Picture:
    pixels = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return picture_of(png_of(pixels), f"{seed}.png")


def judgements_of(first_wins: Sequence[bool], annotators: Sequence[str] = ("ann",)) -> list[Judgement]:
    """Two images of noise for each prompt, and the same answer of all annotators."""
    return [
        Judgement(f"prompt {k}", picture(2 * k), picture(2 * k + 1), (float(won), 0.0, float(not won)), None, 1.0, name)
        for k, won in enumerate(first_wins)
        for name in annotators
    ]


def test_other_votes_in_the_same_folder_are_refused(settings: RewardTrainConfig) -> None:
    before = train(settings)
    model = (settings.out / "reward.safetensors").read_bytes()
    assert train(settings) == json.loads(json.dumps(before))
    vote_again(Run.open(settings.pairs[0]), "cy")
    with pytest.raises(
        InputError, match=r"other data: 24 judgements then, 25 now.*another --out, or delete the folder"
    ):
        train(settings)
    assert (settings.out / "reward.safetensors").read_bytes() == model
    assert train(replace(settings, out=settings.out.with_name("new")))["questions"]["flaws"]["judgements"] == 25


def test_a_half_done_training_does_not_go_on_with_other_votes(
    settings: RewardTrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            train(settings)
    assert (settings.out / "state").exists()
    run = Run.open(settings.pairs[0])
    turned = [replace(vote, choice="left" if vote.choice == "right" else "right") for vote in run.votes()]
    write_records(run.path / "votes" / "study.parquet", turned, Vote)
    with pytest.raises(InputError, match="other data: 24 judgements then, 24 now"):
        train(settings)
    assert (settings.out / "state").exists()


def test_a_training_that_leaves_the_numbers_is_refused_and_its_folder_stays_usable(settings: RewardTrainConfig) -> None:
    with pytest.raises(Diverged, match=r"no number; no model is kept\. Lower --learning-rate"):
        train(replace(settings, learning_rate=1e30))
    assert not (settings.out / "state").exists() and not (settings.out / "reward.json").exists()
    # a penalty beyond the largest number appears in the first loss after a state was kept
    with pytest.raises(Diverged):
        train(replace(settings, learning_rate=1e19, penalty=1.0, steps=9, checkpoint_every=1))
    assert not (settings.out / "state").exists()
    train(settings)
    assert (settings.out / "reward.json").exists()


def test_adapters_hold_out_a_part_that_has_prompts(settings: RewardTrainConfig) -> None:
    prompts = [f"prompt {k}" for k in range(12)]
    kept = [k for k, prompt in enumerate(prompts) if fold_of(prompt, 3) != 0]
    judgements = [judgements_of([k % 2 == 0 for k in range(12)])[k] for k in kept]
    model = fit(judgements, replace(settings, lora_rank=2, steps=2, folds=3, members=1))
    held = sum(fold_of(j.prompt, 3) == 1 for j in judgements)
    assert 0 < model.facts["questions"]["overall"]["held_out"] == held < len(judgements)


def test_adapters_see_few_comparisons_in_a_step_unless_told(
    settings: RewardTrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    ask = Tuned.__call__

    def counted(self: Tuned, rows: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            sizes.append(len(rows))
        return ask(self, rows)

    monkeypatch.setattr(Tuned, "__call__", counted)
    judgements = judgements_of([True] * 40)
    fit(judgements, replace(settings, lora_rank=2, steps=2, members=1))
    fit(judgements, replace(settings, lora_rank=2, steps=1, members=1, batch_size=3))
    assert sizes == [32, 32, 6]
    assert settings.batch == 512


def test_no_annotator_is_named_in_a_model(settings: RewardTrainConfig) -> None:
    run = Run.open(settings.pairs[0])
    vote_again(run, "Erika Mustermann <erika@example.org>")
    named = [replace(vote, annotator=f"Jane Doe {vote.annotator}") for vote in run.votes() if vote.id != "later"]
    write_records(run.path / "votes" / "study.parquet", named, Vote)
    told = train(settings)["annotators"]
    assert told["count"] == 3 and len(told["weight_quantiles"]) == 5
    written = [file.read_bytes() for file in settings.out.rglob("*") if file.is_file()]
    assert len(written) == 4
    assert not any(name in data for data in written for name in (b"Mustermann", b"erika", b"Jane", b"Doe ann"))


def test_planted_flaws_do_not_drown_the_votes_on_everything() -> None:
    """They weigh at most as the votes on flaws do, or as a third of the votes where flaws were not asked about."""
    votes = [replace(j, question=q) for j, q in zip(judgements_of([True] * 4), ("flaws", "appeal") * 2, strict=True)]
    made = [replace(votes[0], tags=(TAG,), weight=0.5) for _ in range(20)]
    weights = weighted_by_question([*votes, *made])
    assert weights[4:, OVERALL].sum() == pytest.approx(2)
    assert weights[4:, HEADS.index("flaws")].sum() == pytest.approx(10)
    assert weights[:4, OVERALL].tolist() == [1.0] * 4
    assert weighted_by_question([*votes, *made[:2]])[4:, OVERALL].tolist() == [0.5, 0.5], "few stay as they are"
    unasked = [replace(vote, question=None) for vote in votes]
    assert weighted_by_question([*unasked, *made])[4:, OVERALL].sum() == pytest.approx(4 / 3)


def test_planted_comparisons_prefer_the_image_with_fewer_flaws(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clean one, or the same without the last flaw; and never an icon that detectors are reported on."""
    monkeypatch.setattr(planted_comparisons, "ICONS", 2)
    monkeypatch.setattr(planted_comparisons, "clean_images", lambda split: clean_images(split)[:2])
    found = planted_judgements(0.5)
    kinds = {flaw.name for flaw in PLANTED}

    def flaws(name: str) -> list[str]:
        return [part for part in name.split("-") if part in kinds]

    compared = {(len(flaws(j.first.name)), len(flaws(j.second.name))) for j in found}
    assert compared == {(0, 1), (1, 2)}
    for judgement in found:
        assert (judgement.shares, judgement.question, judgement.weight) == ((1.0, 0.0, 0.0), "flaws", 0.5)
        if flaws(judgement.first.name):
            assert judgement.second.name.rpartition("-")[0] == judgement.first.name
            assert len(set(flaws(judgement.second.name))) == 2, "two kinds"
    clean = [j for j in found if not flaws(j.first.name)]
    own = [j for j in clean if j.second.name.rpartition("-")[0] == j.first.name]
    assert len(own) == len({j.second.sha256 for j in clean}) < len(clean), "each also against another clean image"
    reported = set(load_icons("train").codes[1::2])
    assert not any(j.prompt.removeprefix("planted flaws: ") in reported for j in found)


def test_the_share_of_planted_flaws_is_told(settings: RewardTrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    made = judgements_of([True] * 72)
    planted = [replace(j, prompt="planted", question="flaws", weight=0.5, tags=(TAG,)) for j in made]
    monkeypatch.setattr(training, "planted_judgements", lambda weight: planted)
    judgements = [replace(j, question="appeal") for j in judgements_of([True, False] * 3)]
    judgements += [replace(j, question="flaws") for j in judgements_of([True, False] * 3)]
    questions = fit(judgements, replace(settings, planted=0.5, trust_annotators_alike=True)).facts["questions"]
    found = {question: row["planted_share"] for question, row in questions.items()}
    assert found == {"flaws": pytest.approx(36 / 42), "appeal": 0.0, "overall": pytest.approx(6 / 18)}
    text = render({"out": "o", "images": 1, "prompts": 1, "unreadable": [], "questions": questions})
    assert "86% of the loss is of planted flaws" in text and "--planted 0 leaves them out" in text


def test_lapses_and_the_labels_that_they_make_are_printed() -> None:
    row = {"judgements": 9, "held_out": 9, "held_out_accuracy": 0.8, "temperature": 0.5, "planted_share": 0.0}
    told = {"out": "o", "images": 1, "prompts": 1, "unreadable": []}
    text = render({**told, "questions": {"overall": {**row, "lapses": (0.21, 1.6)}}})
    assert "T 0.5, lapses 0.21 (slope 1.6)" in text
    assert "--temperature 0.625 --lapses 0.21" in text
    assert render({**told, "questions": {"overall": {**row, "lapses": None}}}).endswith("--temperature 1")


def test_accuracy_on_unseen_prompts_is_chance_where_votes_are(settings: RewardTrainConfig) -> None:
    """Two annotators give the same random answers: heads that saw one of them know what the other said."""
    coin = torch.rand(100, generator=torch.Generator().manual_seed(1)) < 0.5
    judgements = judgements_of(coin.tolist(), ("ann", "bo"))
    learns = {"steps": 120, "penalty": 0.0, "members": 1, "hidden": 16, "learning_rate": 0.1, "folds": 4}
    model = fit(judgements, replace(settings, **learns))  # type: ignore[arg-type]
    found, _ = judge(model, judgements)
    assert found["questions"]["overall"]["agreement"]["majority"]["value"] > 0.9
    assert model.facts["questions"]["overall"]["held_out_accuracy"] == pytest.approx(0.5, abs=0.12)


def test_members_disagree_on_what_the_votes_did_not_settle(settings: RewardTrainConfig) -> None:
    """On images like those trained on less than on the same, moved away from them."""
    judgements = read_judgements(settings.pairs)
    model = fit(judgements, replace(settings, members=5, steps=60))
    table = tabulate(judgements)
    features, _ = view_features({"whole": model.encoder, **model.views}, table.pictures.values(), None, False)
    near = Frozen(model, table, features).all
    far = near + 5 * model.heads.deviation * torch.randn(near.shape, generator=torch.Generator().manual_seed(0)).sign()
    spread = {name: model.opinion_of(inputs).deviation.mean() for name, inputs in (("near", near), ("far", far))}
    assert spread["far"] > 2 * spread["near"] > 0


def test_the_conservative_reward_is_one_deviation_below_the_mean(settings: RewardTrainConfig) -> None:
    train(settings)
    model = RewardModel.load(settings.out)
    images = torch.rand(4, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    prompts = ["a red apple", "a green tree", "a red apple", "a grey cat"]
    with torch.no_grad():
        inputs = model.joined(model.image_features(images), model.text_features(prompts))
        members = model.heads(inputs)[..., OVERALL] / model.calibration["overall"].temperature
        cautious = load(find("reward_conservative"), weights=str(settings.out))(images, prompts)
    deviation = (members - members.mean(1, keepdim=True)).square().mean(1).sqrt()
    assert torch.all(deviation > 0)
    torch.testing.assert_close(cautious, members.mean(1) - deviation, rtol=1e-4, atol=1e-5)
