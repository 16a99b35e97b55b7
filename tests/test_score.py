"""Scoring of folders and runs: odd files, missing things, resuming, references, sets, errors."""

import csv
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import CAPTIONS, tiny_clip, write_tiny_clip

from pixeval.catalog import select
from pixeval.encoders import ClipEncoder
from pixeval.errors import InputError
from pixeval.images import write_png
from pixeval.records import Sample, Score, sample_id
from pixeval.rescore import Evaluation, evaluation_metrics
from pixeval.runs import Run
from pixeval.scoring.evaluate import ScoreConfig, failed, score, score_folder, score_run
from pixeval.scoring.image_pass import guarded
from pixeval.scoring.summary import render
from pixeval.zoo.icons import load_icons

PIXELS = ("quality", "flaws")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def encoder(clip_folder: Path) -> ClipEncoder:
    return ClipEncoder.load(str(clip_folder))


@pytest.fixture(scope="module")
def icons() -> np.ndarray:
    return load_icons("heldout").images[:40]


def write_icons(folder: Path, images: np.ndarray, size: int = 128) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, array in enumerate(images):
        Image.fromarray(array).resize((size, size)).save(folder / f"icon-{number:03d}.png")
    return folder


def make_run(path: Path, images: np.ndarray, prompts: tuple[str, ...] = CAPTIONS, label: str = "base") -> Run:
    run = Run.create(path, "generate", {"model": "test"})
    samples = []
    for number, array in enumerate(images):
        prompt = prompts[number % len(prompts)]
        prompt_id, seed = f"p{number % len(prompts)}", number // len(prompts)
        identity = sample_id("test", prompt_id, seed, label)
        tensor = torch.from_numpy(array.copy()).permute(2, 0, 1).float() / 255
        digest = write_png(tensor, path / "images" / f"{identity}.png")
        file = f"images/{identity}.png"
        samples.append(Sample(identity, label, prompt_id, prompt, seed, "test", file, digest))
    run.write_samples(samples)
    return run


def scored(run: Run, metrics: Sequence[str], **options: Any) -> list[Score]:
    score_run(run, metrics, **options)
    return run.scores()


def by_file(run: Run) -> dict[tuple[str, str], Score]:
    files = {sample.id: sample.path for sample in run.samples()}
    return {(files[row.sample_id], row.metric): row for row in run.scores()}


@pytest.fixture(scope="module")
def odd_folder(tmp_path_factory: pytest.TempPathFactory, icons: np.ndarray) -> Path:
    folder = tmp_path_factory.mktemp("odd") / "my pictures"
    folder.mkdir()
    tall = Image.fromarray(icons[0]).resize((60, 90))
    tall.save(folder / "plain.png")
    tall.save(folder / "photo.JPG", quality=90)
    tall.save(folder / "modern.webp", quality=90)
    tall.convert("L").save(folder / "grey.png")
    tall.convert("P").save(folder / "palette.png")
    tall.convert("CMYK").save(folder / "press.jpg")
    tall.convert("RGBA").save(folder / "opaque.png")
    deep = np.asarray(tall.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(folder / "deep.png")
    exif = Image.Exif()
    exif[274] = 6  # shown rotated by 90 degrees clockwise
    tall.transpose(Image.Transpose.ROTATE_90).save(folder / "rotated.png", exif=exif)
    (folder / "sub").mkdir()
    Image.fromarray(icons[1]).save(folder / "sub" / "<b>name.png")
    Image.new("RGB", (1, 1), "red").save(folder / "tiny.png")
    whole = (folder / "plain.png").read_bytes()
    (folder / "broken.png").write_bytes(whole[: len(whole) // 2])
    (folder / "not-an-image.jpg").write_text("hello")
    (folder / "empty.webp").write_bytes(b"")
    nan = np.full((32, 32), 0.5, dtype=np.float32)
    nan[3, 4] = np.nan
    Image.fromarray(nan).save(folder / "nan.tif")
    (folder / "notes.txt").write_text("not looked at")
    return folder


def test_a_folder_of_ordinary_images(odd_folder: Path, tmp_path: Path, encoder: ClipEncoder) -> None:
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in odd_folder.rglob("*")}
    run = score_folder(odd_folder, tmp_path / "out", (*PIXELS, "clip_score", "caption_rank"), encoder=encoder)
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in odd_folder.rglob("*")} == before
    rows = by_file(run)
    metrics = {metric for _, metric in rows}
    given = {spec.name: spec for spec in select(PIXELS) if "weights" not in spec.needs}
    assert metrics == {*given, "clip_score", "caption_rank"}
    seen = {name for name, spec in given.items() if spec.min_side <= 60}
    encoded = {name for name in seen if "clip" in given[name].needs}
    assert len(seen) > 12
    good = ("plain.png", "photo.JPG", "modern.webp", "grey.png", "palette.png", "press.jpg", "opaque.png", "deep.png")
    for name in (*good, "rotated.png", "sub/<b>name.png"):
        for metric in seen:
            assert rows[name, metric].value is not None, (name, metric, rows[name, metric].reason)
        assert "at least 192" in (rows[name, "niqe"].reason or "")
        assert rows[name, "clip_score"].reason == "no prompt"
        assert "no prompt" in (rows[name, "caption_rank"].reason or "")
    for name in ("broken.png", "not-an-image.jpg", "empty.webp"):
        assert rows[name, "sharpness"].value is None
        assert name in (rows[name, "sharpness"].reason or "")
    assert "1x1" in (rows["tiny.png", "noise_flaw"].reason or "")
    assert rows["tiny.png", "contrast"].value is None
    assert "finite" in (rows["nan.tif", "noise"].reason or "")
    for metric in seen:
        plain = rows["plain.png", metric].value
        # equal pixels, but another place in the batch, which an encoder's last digit may show
        same = pytest.approx(plain, rel=1e-6) if metric in encoded else plain
        assert rows["rotated.png", metric].value == same
        assert rows["opaque.png", metric].value == same
        assert rows["deep.png", metric].value == pytest.approx(rows["grey.png", metric].value, rel=1e-4, abs=1e-5)
    assert rows["grey.png", "colourfulness"].value == pytest.approx(0, abs=1e-4)


def test_values_do_not_depend_on_batch_size_or_order(tmp_path: Path, icons: np.ndarray, encoder: ClipEncoder) -> None:
    metrics = (*PIXELS, "alignment")
    run = make_run(tmp_path / "a", icons[:10])
    first = {(s.sample_id, s.metric): s.value for s in scored(run, metrics, encoder=encoder, batch_size=10)}
    other = make_run(tmp_path / "b", icons[:10])
    other.write_samples(other.samples()[::-1])
    second = {(s.sample_id, s.metric): s.value for s in scored(other, metrics, encoder=encoder, batch_size=3)}
    assert first.keys() == second.keys()
    for key, value in first.items():
        expected = value if value is None else pytest.approx(value, rel=1e-4, abs=1e-5)
        assert second[key] == expected, key


def test_the_bundled_clip_is_not_asked_about_photographs(tmp_path: Path, icons: np.ndarray) -> None:
    run = make_run(tmp_path / "run", icons[:2])
    assert "clip_iqa" not in {row.metric for row in scored(run, ["quality"])}
    assert "clip_iqa" not in evaluation_metrics(Evaluation())
    assert "clip_iqa" in evaluation_metrics(Evaluation(clip="ViT-B-32/openai"))
    assert {row.metric for row in scored(run, ["clip_iqa"])} >= {"clip_iqa"}


def test_present_values_are_not_computed_again(tmp_path: Path, icons: np.ndarray) -> None:
    run = make_run(tmp_path / "run", icons[:4])
    rows = scored(run, ["contrast", "noise"])
    planted = replace(rows[0], value=123.0)
    stale = replace(rows[2], value=456.0, fingerprint="contrast/0")
    own = Score(rows[0].sample_id, "my_reward", 1.5, None, "mine/1")
    run.write_scores([planted, rows[1], stale, *rows[3:], own])
    after = {(s.sample_id, s.metric): s for s in scored(run, ["contrast", "noise"])}
    assert after[planted.sample_id, planted.metric] == planted
    assert after[stale.sample_id, stale.metric] == rows[2]
    assert after[own.sample_id, "my_reward"] == own
    assert len(after) == len(rows) + 1


def test_killed_and_resumed_ends_in_the_same_bytes(tmp_path: Path, icons: np.ndarray, clip_folder: Path) -> None:
    folder = write_icons(tmp_path / "icons", icons, size=64)
    names = sorted(p.name for p in folder.iterdir())
    prompts = tmp_path / "prompts.csv"
    with prompts.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("file_name", "prompt"), *((n, CAPTIONS[i % 6]) for i, n in enumerate(names))])
    code = f"""
from pathlib import Path
from pixeval.encoders import ClipEncoder
from pixeval.scoring.evaluate import score_folder
score_folder(Path({str(folder)!r}), Path({str(tmp_path / "killed")!r}), ("quality", "flaws", "alignment"),
             prompts=Path({str(prompts)!r}), encoder=ClipEncoder.load({str(clip_folder)!r}), batch_size=4, save_every=4)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.PIPE)
    table = tmp_path / "killed" / "scores.parquet"
    while not list((tmp_path / "killed").glob("scores.parts/*.parquet")):
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stderr is not None
    process.stderr.close()
    assert not table.exists()
    assert 0 < len(Run.open(tmp_path / "killed").scores()) < len(names) * 14
    options = {"prompts": prompts, "encoder": ClipEncoder.load(str(clip_folder)), "batch_size": 4}
    for out in ("killed", "whole"):
        score_folder(folder, tmp_path / out, ("quality", "flaws", "alignment"), **options)
    assert table.read_bytes() == (tmp_path / "whole" / "scores.parquet").read_bytes()
    assert (tmp_path / "killed" / "samples.parquet").read_bytes() == (tmp_path / "whole/samples.parquet").read_bytes()


def test_a_changed_file_loses_its_scores_in_a_run_and_is_rescored_in_a_folder(
    tmp_path: Path, icons: np.ndarray
) -> None:
    run = make_run(tmp_path / "run", icons[:3])
    score_run(run, ["contrast"])
    changed = run.samples()[1]
    Image.fromarray(icons[9]).save(run.image(changed))
    rows = {s.sample_id: s for s in scored(run, ["contrast"])}
    assert rows[changed.id].value is None
    assert "changed" in (rows[changed.id].reason or "")

    folder = write_icons(tmp_path / "folder", icons[:3])
    rescored = score_folder(folder, tmp_path / "out", ["contrast"])
    before = by_file(rescored)
    Image.fromarray(icons[9]).save(folder / "icon-001.png")
    (folder / "icon-002.png").unlink()
    score_folder(folder, tmp_path / "out", ["contrast"])
    after = by_file(rescored)
    assert after["icon-000.png", "contrast"] == before["icon-000.png", "contrast"]
    assert after["icon-001.png", "contrast"].value != before["icon-001.png", "contrast"].value
    assert ("icon-002.png", "contrast") not in after


def test_prompts_of_a_folder(tmp_path: Path, icons: np.ndarray, encoder: ClipEncoder) -> None:
    folder = write_icons(tmp_path / "f", icons[:3])
    hostile = 'a "red",\n apple \u2028 <script>'
    lines = [{"file_name": "icon-000.png", "text": hostile}, {"file_name": "icon-001.png", "text": "a grey cat " * 30}]
    prompts = tmp_path / "p.jsonl"
    prompts.write_text("\n".join(json.dumps(line) for line in lines))
    run = score_folder(folder, tmp_path / "out", ["alignment"], prompts=prompts, encoder=encoder)
    rows = by_file(run)
    assert rows["icon-000.png", "clip_score"].value is not None
    assert rows["icon-001.png", "caption_rank"].value in (1.0, 2.0)
    assert rows["icon-002.png", "clip_score"].reason == "no prompt"
    assert {s.path: s.prompt for s in run.samples()}["icon-000.png"] == hostile
    for content, match in (
        ("file_name,prompt\nicon-000.png,a\nicon-00.png,b\n", "not in"),
        ("file_name,other\nicon-000.png,a\n", "no column 'prompt'"),
        ("file_name,prompt\nicon-000.png,a\nicon-000.png,b\n", "two different prompts"),
        ("", "holds no prompts"),
    ):
        bad = tmp_path / "bad.csv"
        bad.write_text(content)
        with pytest.raises(InputError, match=match):
            score_folder(folder, tmp_path / "out", ["alignment"], prompts=bad, encoder=encoder)


def test_reference_metrics_pair_by_prompt_and_seed(tmp_path: Path, icons: np.ndarray) -> None:
    run = make_run(tmp_path / "a", icons[:6])
    noisy = np.clip(icons[:6].astype(int) + 9, 0, 255).astype(np.uint8)
    reference = make_run(tmp_path / "b", noisy, label="other")
    reference.write_samples(reference.samples()[::-1][:5])  # the first prompt is gone, the order is another
    rows = {(s.sample_id, s.metric): s for s in scored(run, ["reference"], reference=reference)}
    samples = run.samples()
    assert "same prompt and seed" in (rows[samples[0].id, "psnr"].reason or "")
    error = ((icons[1] - noisy[1].astype(float)) / 255) ** 2
    assert rows[samples[1].id, "psnr"].value == pytest.approx(-10 * np.log10(error.mean()), abs=1e-3)
    same = {(s.sample_id, s.metric): s for s in scored(run, ["reference"], reference=run)}
    assert "finite" in (same[samples[1].id, "psnr"].reason or "")
    assert same[samples[1].id, "ssim"].value == pytest.approx(1, abs=1e-5)
    small = write_icons(tmp_path / "small", icons[:6], size=64)
    folder = write_icons(tmp_path / "large", icons[:6])
    compared = by_file(score_folder(folder, tmp_path / "out", ["psnr"], reference=small))
    assert "128x128" in (compared["icon-000.png", "psnr"].reason or "")


def test_set_metrics_per_label(tmp_path: Path, icons: np.ndarray, encoder: ClipEncoder) -> None:
    run = make_run(tmp_path / "run", icons[:20])
    few = make_run(tmp_path / "few", icons[20:24], label="few")
    for sample in few.samples():
        (run.path / sample.path).write_bytes(few.image(sample).read_bytes())
    run.write_samples(run.samples() + few.samples())
    reference = write_icons(tmp_path / "reference", icons[20:])
    score_run(run, ["distribution"], encoder=encoder, reference=reference)
    rows = {(s.label, s.metric): s for s in run.set_scores()}
    for metric in ("kernel_distance", "cmmd", "frechet_distance"):
        row = rows["base", metric]
        assert row.value is not None, row.reason
        assert row.low is not None
        assert row.high is not None
        assert row.low < row.value < row.high
        assert (row.n, row.reference) == (20, "reference")
        assert rows["few", metric].value is None
        assert "at least" in (rows["few", metric].reason or "")
    before = (run.path / "set_scores.parquet").read_bytes()
    run.write_samples(run.samples()[::-1])
    (run.path / "set_scores.parquet").unlink()
    score_run(run, ["distribution"], encoder=encoder, reference=reference)
    again = {(s.label, s.metric): s for s in run.set_scores()}
    assert again["base", "cmmd"].value == pytest.approx(rows["base", "cmmd"].value, rel=1e-5)
    score_run(run, ["distribution"], encoder=encoder, reference=reference)
    assert len(before) > 0
    assert {(s.label, s.metric): s for s in run.set_scores()} == again


def test_a_full_disk_loses_nothing(tmp_path: Path, icons: np.ndarray) -> None:
    run = make_run(tmp_path / "run", icons[:8])
    score_run(run, ["contrast"])
    table = run.path / "scores.parquet"
    before = table.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        with pytest.raises(InputError, match=r"cannot write .*scores\.parts"):
            score_run(run, ["noise"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert table.read_bytes() == before
    assert not list(run.path.rglob("*.partial"))
    assert len(scored(run, ["noise"])) == 16


def test_a_failing_image_leaves_the_others_alone() -> None:
    def compute(which: list[int]) -> torch.Tensor:
        if 1 in which:
            raise RuntimeError("cannot take this one")
        return torch.tensor([float(i) for i in which])

    assert guarded(compute, 3) == [0.0, "the metric failed: RuntimeError: cannot take this one", 2.0]


def test_the_command_summarises(tmp_path: Path, odd_folder: Path, clip_folder: Path, icons: np.ndarray) -> None:
    config = ScoreConfig(odd_folder, out=tmp_path / "out", clip=str(clip_folder))
    summary = score(config)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    rows = {row["metric"]: row for row in summary["images"]}
    row = rows["sharpness"]
    assert (row["n"], row["n_unscored"], row["better"], row["label"]) == (10, 5, "higher", "my pictures")
    assert row["low"] <= row["mean"] <= row["high"]
    assert rows["clip_score"]["mean"] is None
    assert {broken["file"] for broken in summary["unreadable"]} >= {"broken.png", "empty.webp", "not-an-image.jpg"}
    assert {left["metric"] for left in summary["left_out"]} >= {"psnr", "cmmd"}
    text = render(summary)
    assert "↑ sharpness" in text
    assert "broken.png" in text
    one = score(ScoreConfig(odd_folder, metrics=("contrast",), out=tmp_path / "one"))
    assert one is not None and failed(one) == 1
    assert {broken["file"] for broken in one["unreadable"]} >= {"broken.png", "empty.webp", "not-an-image.jpg"}
    run = make_run(tmp_path / "run", icons[:12])
    whole = score(ScoreConfig(run.path, metrics=("contrast", "clip_score"), clip=str(clip_folder)))
    assert failed(whole) == 0
    text = render(score(ScoreConfig(run.path, metrics=("cmmd", "contrast"), reference=run.path, clip=str(clip_folder))))
    assert "(base vs run)" in text


def test_bad_input_names_the_remedy(tmp_path: Path, icons: np.ndarray, clip_folder: Path) -> None:
    folder = write_icons(tmp_path / "f", icons[:1])
    empty = tmp_path / "empty"
    empty.mkdir()
    for config, match in (
        (ScoreConfig(tmp_path / "none"), "does not exist"),
        (ScoreConfig(empty, metrics=PIXELS), "holds no images"),
        (ScoreConfig(folder, metrics=("sharpnes",)), "Did you mean 'sharpness'"),
        (ScoreConfig(folder, metrics=("psnr",)), "--reference"),
        (ScoreConfig(folder, clip=str(empty)), r"open_clip_config\.json"),
        (ScoreConfig(folder, device="quantum"), "--device cpu"),
        (ScoreConfig(folder, batch_size=0), "batch size"),
        (ScoreConfig(folder, metrics=PIXELS, prompts=tmp_path / "no.csv"), "cannot be read"),
        (ScoreConfig(folder, metrics=PIXELS, out=folder), "another folder"),
        (ScoreConfig(folder, metrics=PIXELS, out=tmp_path), "not empty"),
    ):
        with pytest.raises(InputError, match=match):
            score(replace(config, out=config.out or tmp_path / "out"))
    run = make_run(tmp_path / "run", icons[:1])
    with pytest.raises(InputError, match="--prompts is for folders"):
        score(ScoreConfig(run.path, metrics=PIXELS, prompts=tmp_path / "p.csv"))
    (run.path / "scores.parquet").write_bytes(b"PAR1 damaged")
    with pytest.raises(InputError, match=r"scores\.parquet"):
        score_run(run, PIXELS)


def test_one_pass_of_the_encoder_serves_all_metrics(tmp_path: Path, icons: np.ndarray, clip_folder: Path) -> None:
    seen = 0

    def count(_module: object, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal seen
        seen += len(inputs[0])

    encoder = tiny_clip(tmp_path / "clip")
    encoder.model.visual.register_forward_pre_hook(count)  # type: ignore[union-attr, arg-type]
    run = make_run(tmp_path / "run", icons[:18])
    reference = write_icons(tmp_path / "reference", icons[18:30])
    score_run(run, ["alignment", "distribution"], encoder=encoder, reference=reference)
    assert seen == 18 + 12
