"""The recipes of examples/, each run for two steps on a tiny model of its family; and settings in files."""

import json
import tomllib
from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_data import pick_a_pic, picture
from tiny_flow_models import save_tiny_flow
from tiny_models import CAPTIONS, RESOLUTION, save_tiny

from pixeval.cli import run
from pixeval.config_file import words_of
from pixeval.errors import InputError
from pixeval.runs import Run
from trainers.preference import PreferenceConfig
from trainers.sft import SftConfig
from trainers.training_log import read_log

EXAMPLES = Path(__file__).parents[1] / "examples"
FAMILIES = {"sd15": "sd-epsilon", "sdxl": "sdxl", "sd35": "sd3", "flux": "flux-dev"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four models, sft/ and pick-a-pic.parquet."""
    root = tmp_path_factory.mktemp("examples")
    for name in FAMILIES.values():
        (save_tiny if name == "sd-epsilon" else save_tiny_flow)(name, root / name)
    (root / "sft").mkdir()
    lines = []
    for i, caption in enumerate(CAPTIONS):
        (root / "sft" / f"{i}.png").write_bytes(picture(i))
        lines.append(json.dumps({"file_name": f"{i}.png", "text": caption}))
    (root / "sft" / "metadata.jsonl").write_text("\n".join(lines))
    pick_a_pic(root / "pick-a-pic.parquet")
    return root


@pytest.mark.parametrize("recipe", sorted(path.stem for path in EXAMPLES.glob("*.toml")))
def test_a_recipe_trains_a_tiny_model_of_its_family(recipe: str, world: Path, tmp_path: Path) -> None:
    family, purpose = recipe.split("-")
    data = world / ("sft" if purpose == "sft" else "pick-a-pic.parquet")
    flags = {
        "model": world / FAMILIES[family], "data": data, "out": tmp_path / "run", "steps": 2, "batch-size": 2,
        "accumulate": 1, "resolution": RESOLUTION, "decode-crop": RESOLUTION // 2, "device": "cpu",
        "self-test": False, "dataset.cache": tmp_path / "cache",
    }  # fmt: skip
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    assert run(["train", "--config", str(EXAMPLES / f"{recipe}.toml"), *words]) == 0
    done = Run.open(tmp_path / "run")
    written = tomllib.loads((EXAMPLES / f"{recipe}.toml").read_text())
    assert done.info["config"]["trainer"] == written["trainer"] == purpose
    assert done.info["config"]["pixel_weight"] == {"sd15": 2.0, "sdxl": 2.0, "sd35": 8.0, "flux": 8.0}[family]
    assert done.info["config"]["weight_decay"] == 5e-6 and done.info["config"]["mixed_precision"] == "bf16"
    assert len(read_log(done)) == 2
    adapters = tmp_path / "run/checkpoints/step-000002/pytorch_lora_weights.safetensors"
    assert adapters.exists() == ("lora_rank" in written)
    if adapters.exists():
        assert load_file(adapters)


def test_there_is_a_recipe_for_every_model_and_purpose() -> None:
    found = {path.stem for path in EXAMPLES.glob("*.toml")}
    assert found == {f"{family}-{purpose}" for family in FAMILIES for purpose in ("sft", "preference")}
    assert all(name in (EXAMPLES / "README.md").read_text() for name in found)


def test_every_setting_of_a_recipe_is_known_and_options_come_first(tmp_path: Path) -> None:
    words = words_of(EXAMPLES / "sdxl-sft.toml", SftConfig, "train sft", ["--lora-rank=4", "--dataset.flip", "True"])
    assert "--lora-rank" not in words and "--dataset.flip" not in words
    assert words[words.index("--dataset.cache") + 1] == "cache" and words[words.index("--steps") + 1] == "1000"
    file = tmp_path / "mine.toml"
    file.write_text('lora_targets = ["to_q", "to_k"]\nsoft_labels = true\n[pixel]\nband = [0.0, 0.5]\n')
    assert words_of(file, PreferenceConfig, "train preference", []) == [
        "--lora-targets", "to_q", "to_k", "--soft-labels", "True", "--pixel.band", "0.0", "0.5"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps = 5\nlerning_rate = 1e-5\n", r"line 2: 'lerning_rate'.*Did you mean 'learning_rate'"),
        ("steps = 5\n\n[dataset]\n# more\nbukets = true\n", r"line 5: 'dataset\.bukets'.*'dataset\.buckets'"),
        ("dataset.bukets = true\n", r"line 1: 'dataset\.bukets'"),
        ('steps = "five"\n', r"line 1: steps = 'five' is not understood; it must be a whole number"),
        ("soft_labels = 1\n", "soft_labels = 1 is not understood; it must be true or false"),
        ('method = "dop"\n', "'dpo' or 'simpo'"),
        ("pixel = 3\n", r"write its settings below \[pixel\]"),
        ("steps = \n", "cannot be read as TOML"),
        ('trainer = "sft"\n', "is for 'pixeval train sft', not for 'pixeval train preference'"),
        ("evaluation = 1\n", "evaluation is a table"),
    ],
)
def test_a_file_with_a_mistake_is_refused_by_line(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=words):
        words_of(file, PreferenceConfig, "train preference", [])


def test_the_command_line_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.toml"
    for text, words in (
        ("steps = 1\n", "does not say what is trained"),
        ('trainer = "stf"\n', "Did you mean 'sft'"),
        ("", "does not say what is trained"),
    ):
        file.write_text(text)
        assert run(["train", "--config", str(file)]) == 2
        assert words in capsys.readouterr().err
    assert run(["train", "--config"]) == 2 and "takes one TOML file" in capsys.readouterr().err
    assert run(["train", "--config", str(tmp_path / "none.toml")]) == 2
    assert "cannot be read as TOML" in capsys.readouterr().err
