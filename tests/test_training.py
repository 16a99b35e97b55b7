"""Training runs on tiny models: every method, exact resumption, killed processes, bad input."""

import json
import math
import resource
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file
from tiny_data import paint, tree
from tiny_models import CAPTIONS, RESOLUTION, TINY, save_tiny
from training_process import StopError, stop_at

from pixeval.errors import InputError
from pixeval.pair_folder import export_pairs
from pixeval.records import Pair
from pixeval.runs import Run
from trainers.checkpoint import recover_directory
from trainers.data import captioned_latents, paired_latents
from trainers.data_order import batch_rows
from trainers.families.detect import load
from trainers.framing import fit_image
from trainers.image_sets import read_captioned
from trainers.latents import Posterior
from trainers.objective import Composition
from trainers.preference import PreferenceConfig, preference_loss, train_preference
from trainers.sft import SftConfig, train_sft
from trainers.training_log import read_log

FAMILIES = ("sd-epsilon", "pixart-flow")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models/, captioned images (sft/) and preference pairs (pairs/)."""
    root = tmp_path_factory.mktemp("world")
    for name in TINY:
        save_tiny(name, root / "models" / name)
    (root / "sft").mkdir()
    lines = []
    for i, caption in enumerate(CAPTIONS):
        paint(root / "sft" / f"{i}.png", i, (RESOLUTION + 9 * (i % 3), RESOLUTION + 5 * (i % 2)))
        lines.append(json.dumps({"file_name": f"{i}.png", "text": caption}))
    (root / "sft" / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    pairs = []
    for i, caption in enumerate(CAPTIONS[:5]):
        for side in (0, 1):
            paint(root / f"pair-{i}-{side}.png", 100 + 2 * i + side)
        chosen, rejected = (str(root / f"pair-{i}-{side}.png") for side in (0, 1))
        pairs.append(
            Pair(f"p{i}", caption, f"c{i}", f"r{i}", chosen, rejected, "a", "b", 0.6 + 0.08 * i, "votes:appeal")
        )
    export_pairs(pairs, root / "pairs", "test")
    return root


def sft_config(world: Path, out: Path, family: str = "sd-epsilon", **changes: Any) -> SftConfig:
    config = SftConfig(
        model=world / "models" / family, data=world / "sft", out=out, steps=2, batch_size=2, learning_rate=1e-3,
        device="cpu", self_test=False,
    )  # fmt: skip
    return replace(config, **changes)


def preference_config(world: Path, out: Path, family: str = "sd-epsilon", **changes: Any) -> PreferenceConfig:
    config = PreferenceConfig(
        model=world / "models" / family, data=world / "pairs", out=out, steps=2, batch_size=2, learning_rate=1e-3,
        device="cpu", self_test=False,
    )  # fmt: skip
    return replace(config, **changes)


def frozen_and_trained(family: str) -> tuple[list[str], str]:
    weights = {"sd": ("unet", ["vae", "text_encoder"]), "pixart": ("transformer", ["vae", "text_encoder"])}
    trained, frozen = weights[family.split("-")[0]]
    return frozen, trained


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def assert_only_the_denoiser_changed(before: Path, after: Path, family: str) -> None:
    frozen, trained = frozen_and_trained(family)
    for part in frozen:
        old, new = weights_of(before / part), weights_of(after / part)
        assert all(torch.equal(old[key], new[key]) for key in old | new)
    old, new = weights_of(before / trained), weights_of(after / trained)
    assert old.keys() == new.keys()
    assert any(not torch.equal(old[key], new[key]) for key in old)
    assert all(bool(torch.isfinite(value).all()) for value in new.values())


@pytest.mark.parametrize("objective", ["latent", "pixel", "both", "control"])
@pytest.mark.parametrize("family", FAMILIES)
def test_two_steps_of_sft(family: str, objective: Any, world: Path, tmp_path: Path) -> None:
    run = train_sft(sft_config(world, tmp_path / "run", family, objective=objective))
    log = read_log(run)
    assert [line["step"] for line in log] == [1, 2]
    terms = {"latent": ["latent"], "pixel": ["pixel"], "both": ["latent", "pixel"], "control": ["latent", "latent_zt"]}
    weight = {"sd-epsilon": 2.0, "pixart-flow": 8.0}[family]
    for line in log:
        errors = [line[f"{kind}_error"] for kind in terms[objective]]
        assert line["loss"] == pytest.approx(errors[0] + (weight * errors[1] if errors[1:] else 0), rel=1e-5)
        assert line["gradient_norm"] > 0
    assert_only_the_denoiser_changed(world / "models" / family, tmp_path / "run/checkpoints/step-000002", family)


@pytest.mark.parametrize("objective", ["latent", "pixel", "both", "control"])
@pytest.mark.parametrize("method", ["dpo", "simpo"])
@pytest.mark.parametrize("family", FAMILIES)
def test_two_steps_of_preference_tuning(family: str, method: Any, objective: Any, world: Path, tmp_path: Path) -> None:
    run = train_preference(preference_config(world, tmp_path / "run", family, method=method, objective=objective))
    first = read_log(run)[0]
    kinds = [name.removesuffix("_margin") for name in first if name.endswith("_margin")]
    weight = {"sd-epsilon": 2.0, "pixart-flow": 8.0}[family]
    total = sum(w * first[f"{kind}_loss"] for w, kind in zip((1.0, weight), kinds, strict=False))
    assert first["loss"] == pytest.approx(total, rel=1e-5)
    if method == "dpo":
        for kind in kinds:
            assert first[f"{kind}_loss"] == pytest.approx(math.log(2), abs=1e-4)
            assert first[f"{kind}_margin"] == pytest.approx(0, abs=1e-3)
    assert_only_the_denoiser_changed(world / "models" / family, tmp_path / "run/checkpoints/step-000002", family)


@pytest.mark.parametrize("family", ["sd-v", "sd-x0", "pixart-epsilon", "pixart-sigma"])
def test_the_other_parametrisations_train_too(family: str, world: Path, tmp_path: Path) -> None:
    run = train_sft(sft_config(world, tmp_path / "run", family))
    assert len(read_log(run)) == 2
    assert_only_the_denoiser_changed(world / "models" / family, tmp_path / "run/checkpoints/step-000002", family)


@pytest.mark.parametrize("method", ["dpo", "simpo"])
def test_preference_tuning_learns_its_pairs(method: Any, world: Path, tmp_path: Path) -> None:
    """On noise and times that training did not draw, the model agrees with clear preferences, in both spaces."""
    config = preference_config(world, tmp_path / "run", method=method, batch_size=4, beta=20.0)
    model = load(config.model)
    data = paired_latents(model, config.data, model.resolution)
    # An untrained VAE maps all images to nearly the same latents; these can be told apart.
    mean, still = torch.ones_like(data.winner.mean), torch.zeros_like(data.winner.std)
    clear = replace(data, winner=Posterior(mean, still), loser=Posterior(-mean, still))
    loss = preference_loss(model, clear, config, Composition(config, model, clear.texts.prompts, RESOLUTION))
    optimizer = torch.optim.AdamW(model.denoiser.parameters(), lr=3e-3)
    for batch in range(25):
        optimizer.zero_grad()
        loss(model.denoiser, batch, torch.Generator().manual_seed(batch))["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        probe = [loss(model.denoiser, i, torch.Generator().manual_seed(1000 + i)) for i in range(6)]
    for kind in ("latent", "pixel"):
        assert sum(float(terms[f"{kind}_margin"]) for terms in probe) > 0
        assert sum(float(terms[f"{kind}_accuracy"]) for terms in probe) / 6 > 0.7


def test_sft_lowers_its_error(world: Path, tmp_path: Path) -> None:
    log = read_log(train_sft(sft_config(world, tmp_path / "run", steps=25, batch_size=6, learning_rate=1e-2)))
    early, late = (sum(line["loss"] for line in part) for part in (log[:5], log[-5:]))
    assert late < 0.9 * early


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_generates_with_stock_diffusers(family: str, world: Path, tmp_path: Path) -> None:
    train_sft(sft_config(world, tmp_path / "run", family, objective="latent"))
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "run/checkpoints/step-000002")
    pipeline.set_progress_bar_config(disable=True)
    extra = {"use_resolution_binning": False, "clean_caption": False} if family.startswith("pixart") else {}
    images = pipeline(CAPTIONS[0], num_inference_steps=2, output_type="pt", **extra).images
    assert images.shape == (1, 3, RESOLUTION, RESOLUTION)
    assert bool(torch.isfinite(images).all())


@pytest.mark.parametrize(
    "changes", [{"accumulate": 2, "ema": 0.9, "warmup": 3}, {"mixed_precision": "bf16"}], ids=["ema", "bf16"]
)
def test_sft_resumes_to_the_same_bits(changes: dict[str, Any], world: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 6, "checkpoint_every": 2, **changes}
    train_sft(sft_config(world, tmp_path / "whole", **settings))
    with pytest.raises(StopError):
        train_sft(sft_config(world, tmp_path / "parts", **settings), stop_at(2))
    torch.manual_seed(12345)
    seen: list[int] = []
    train_sft(sft_config(world, tmp_path / "parts", **settings), lambda step, path: seen.append(step))
    assert seen == [2, 4, 6], "the callback of step 2 did not finish, so it is called again"
    assert tree(tmp_path / "whole") == tree(tmp_path / "parts")


def test_dpo_resumes_to_the_same_bits_with_the_first_reference(world: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 4, "checkpoint_every": 2, "method": "dpo", "soft_labels": True}
    train_preference(preference_config(world, tmp_path / "whole", "pixart-flow", **settings))
    with pytest.raises(StopError):
        train_preference(preference_config(world, tmp_path / "parts", "pixart-flow", **settings), stop_at(2))
    train_preference(preference_config(world, tmp_path / "parts", "pixart-flow", **settings))
    assert tree(tmp_path / "whole") == tree(tmp_path / "parts")


def test_a_finished_run_is_left_as_it_is(world: Path, tmp_path: Path) -> None:
    train_sft(sft_config(world, tmp_path / "run"))
    before = tree(tmp_path / "run")
    train_sft(sft_config(world, tmp_path / "run"))
    assert tree(tmp_path / "run") == before


def test_a_directory_killed_between_two_renames_is_recovered(tmp_path: Path) -> None:
    (tmp_path / "state.old").mkdir()
    (tmp_path / "state.old" / "state.json").write_text("{}")
    (tmp_path / "state.partial").mkdir()
    assert recover_directory(tmp_path / "state")
    assert [p.name for p in tmp_path.iterdir()] == ["state"]
    assert not recover_directory(tmp_path / "never")


def test_a_full_disk_is_reported_and_keeps_the_last_checkpoint(world: Path, tmp_path: Path) -> None:
    config = sft_config(world, tmp_path / "run", steps=4, checkpoint_every=2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(step: int, path: Path) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))

    try:
        with pytest.raises(InputError, match="Make room"):
            train_sft(config, limit)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    train_sft(config)
    train_sft(sft_config(world, tmp_path / "whole", steps=4, checkpoint_every=2))
    assert tree(tmp_path / "run") == tree(tmp_path / "whole")


def test_every_epoch_reads_every_row_once() -> None:
    rows = torch.cat([batch_rows(7, 3, seed=1, batch=i) for i in range(7)]).tolist()
    assert [sorted(rows[i : i + 7]) for i in (0, 7, 14)] == [list(range(7))] * 3
    assert rows[:7] != rows[7:14]
    assert batch_rows(7, 3, 1, 5).tolist() == rows[15:18]
    assert batch_rows(7, 3, 2, 5).tolist() != rows[15:18]


def test_all_three_layouts_of_captioned_images_give_the_same(world: Path, tmp_path: Path) -> None:
    text, table = tmp_path / "text", tmp_path / "table.parquet"
    text.mkdir()
    rows = []
    for i, caption in enumerate(CAPTIONS):
        data = (world / "sft" / f"{i}.png").read_bytes()
        (text / f"{i}.png").write_bytes(data)
        (text / f"{i}.txt").write_text(caption + "\n")
        rows.append({"image": {"bytes": data, "path": None}, "caption": caption})
    pq.write_table(pa.Table.from_pylist(rows), table)
    expected = [(entry.image, entry.caption) for entry in read_captioned(world / "sft")]
    for source in (text, table):
        found = [(entry.image, entry.caption) for entry in read_captioned(source)]
        assert [caption for _, caption in found] == CAPTIONS
        for (a, _), (b, _) in zip(found, expected, strict=True):
            assert isinstance(a, torch.Tensor)
            assert isinstance(b, torch.Tensor)
            assert torch.equal(a, b)


def test_bad_rows_are_named_and_the_rest_goes_on(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    paint(folder / "good.png", 1)
    (folder / "cut.png").write_bytes((folder / "good.png").read_bytes()[:60])
    names = ["good.png", "cut.png", "gone.png", "../../../etc/hostname", "good.png"]
    (folder / "metadata.jsonl").write_text("".join(json.dumps({"file_name": n, "text": "a"}) + "\n" for n in names))
    data = captioned_latents(load(world / "models/sd-epsilon"), folder, (RESOLUTION, RESOLUTION))
    assert len(data) == 2
    assert [entry.name for entry in data.skipped] == names[1:4]
    assert data.skipped[2].reason == "lies outside the folder"
    run = train_sft(sft_config(world, tmp_path / "run", data=folder))
    assert [row["name"] for row in json.loads((run.path / "skipped.json").read_text())] == names[1:4]


def test_equal_prompts_are_encoded_once_and_row_0_is_the_empty_one(world: Path) -> None:
    model = load(world / "models/pixart-flow")
    data = paired_latents(model, world / "pairs", (RESOLUTION, RESOLUTION))
    assert data.prompt.tolist() == [1, 2, 3, 4, 5]
    assert data.texts.conditioning["embeddings"].shape[0] == 6
    torch.testing.assert_close(data.texts.conditioning["embeddings"][:1], model.encode_prompts([""])["embeddings"])
    torch.testing.assert_close(data.soft_label, torch.tensor([0.6, 0.68, 0.76, 0.84, 0.92]))


def test_images_are_covered_and_cropped_in_the_middle() -> None:
    image = torch.zeros(3, 20, 60)
    image[:, :, 20:40] = 1
    assert torch.equal(fit_image(image, (20, 20)), torch.ones(3, 20, 20))
    assert fit_image(torch.rand(3, 7, 100), (16, 24)).shape == (3, 16, 24)


BAD_SETTINGS = {
    "steps": 0, "batch_size": 0, "learning_rate": 0.0, "ema": 1.5, "resolution": 33, "device": "gpu",
    "caption_dropout": 2.0, "checkpoint_every": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", list(BAD_SETTINGS))
def test_settings_that_cannot_work_are_named(name: str, world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=name):
        train_sft(sft_config(world, tmp_path / "run", **{name: BAD_SETTINGS[name]}))
    assert not (tmp_path / "run").exists()


def test_unusable_data_is_named(world: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    paint(tmp_path / "plain" / "a.png", 0)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.table({"picture": [b""]}), tmp_path / "columns.parquet")
    cases = {
        "missing": "does not exist",
        "plain": "no captions",
        "broken.parquet": "Parquet",
        "columns.parquet": "caption",
    }
    for number, (name, words) in enumerate(cases.items()):
        with pytest.raises(InputError, match=words):
            train_sft(sft_config(world, tmp_path / f"run{number}", data=tmp_path / name))
    with pytest.raises(InputError, match="pairs"):
        train_preference(preference_config(world, tmp_path / "run", data=tmp_path / "plain"))
    with pytest.raises(InputError, match="beta"):
        train_preference(preference_config(world, tmp_path / "run", beta=-1.0))


def test_other_settings_do_not_continue_a_run(world: Path, tmp_path: Path) -> None:
    train_sft(sft_config(world, tmp_path / "run"))
    with pytest.raises(InputError, match="learning_rate"):
        train_sft(sft_config(world, tmp_path / "run", learning_rate=2e-3))
    assert Run.open(tmp_path / "run").info["config"]["trainer"] == "sft"


def test_a_refused_start_does_not_claim_the_folder(world: Path, tmp_path: Path) -> None:
    """A mistyped model or data path can be put right with the same run folder."""
    for changes in ({"model": tmp_path / "typo"}, {"data": tmp_path / "typo"}):
        with pytest.raises(InputError, match="typo"):
            train_sft(sft_config(world, tmp_path / "run", **changes))
    train_sft(sft_config(world, tmp_path / "run"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        train_sft(sft_config(world, tmp_path / "file"))


def test_a_diverging_run_stops(world: Path, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="learning_rate"):
        train_sft(sft_config(world, tmp_path / "run", steps=20, learning_rate=1e30, objective="latent"))
