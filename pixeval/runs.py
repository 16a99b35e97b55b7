"""A run: the folder in which everything about one generator or one training run is kept.

::

    run.json             format, kind, configuration, command, versions
    prompts.parquet      Prompt rows, with their questions and objects (runs of generated images)
    samples.parquet      Sample rows; images/ holds the files
    scores.parquet       Score rows (per image); scores.parts/ while scoring goes on or after it was interrupted
    set_scores.parquet   SetScore rows (per set)
    votes/*.parquet      Vote rows, one file per export
    checkpoints/         complete pipelines, step-000050/ and so on
    report/              report.html and its twins, figures.parquet with every number of it
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from pixeval import __version__
from pixeval.errors import InputError
from pixeval.records import Prompt, Sample, Score, SetScore, Vote
from pixeval.tables import read_records, write_records

FORMAT = 1
SCORE_PARTS = "scores.parts"
PACKAGES = ("torch", "diffusers", "transformers", "open_clip_torch", "torchmetrics", "accelerate", "datasets")


@dataclass(frozen=True)
class Run:
    """An existing run folder; make one with :meth:`create`, find one with :meth:`open`."""

    path: Path

    @classmethod
    def create(cls, path: Path, kind: str, config: dict[str, Any]) -> "Run":
        """Start a run, or reopen it when it was started with the same configuration.

        Args:
            path: the folder; must be new, empty, or a run of the same ``kind`` and ``config``.
            kind: ``generate``, ``train``, ``folder``.
            config: JSON-serialisable; decides whether a second call continues the same run.

        Raises:
            InputError: the folder holds something else.
        """
        run = cls(path)
        config = json.loads(json.dumps(config, default=str))
        if (path / "run.json").exists():
            found = cls.open(path).info
            if found["kind"] != kind or found["config"] != config:
                changed = sorted(k for k in {*found["config"], *config} if found["config"].get(k) != config.get(k)) or [
                    "kind"
                ]
                raise InputError(
                    f"{path} holds a {found['kind']} run with other settings ({', '.join(changed)}). "
                    "Give another folder, or the same settings to continue it."
                )
            return run
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file; give a new folder for the run.")
        if path.exists() and any(file.name != "run.json.partial" for file in path.iterdir()):
            raise InputError(f"{path} is not empty and not a run (no run.json). Give a new folder.")
        path.mkdir(parents=True, exist_ok=True)
        run.write_info({"format": FORMAT, "kind": kind, "config": config, **provenance()})
        return run

    @classmethod
    def open(cls, path: Path) -> "Run":
        """An existing run.

        Raises:
            InputError: there is none at ``path``, or another version of pixeval wrote it.
        """
        file = path / "run.json"
        if not path.is_dir():
            what = "is a file" if path.exists() else "does not exist"
            raise InputError(f"{path} {what}, so it is not a run folder. Make one with 'pixeval generate'.")
        if not file.exists():
            raise InputError(f"{path} is not a run folder: it has no run.json. Make one with 'pixeval generate'.")
        try:
            info = json.loads(file.read_text(encoding="utf-8"))
            written = info["format"]
            if written == FORMAT and not (isinstance(info["kind"], str) and isinstance(info["config"], dict)):
                raise TypeError("kind must be a text and config an object")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file} is damaged ({error}); restore it or make the run again") from error
        if written != FORMAT:
            raise InputError(
                f"{path} was written in run format {written} by pixeval {info.get('pixeval', '?')}; "
                f"this is pixeval {__version__} with format {FORMAT}. Use that version, or make the run again."
            )
        return cls(path)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.resolve().name

    @property
    def info(self) -> dict[str, Any]:
        """The contents of ``run.json``."""
        info: dict[str, Any] = json.loads((self.path / "run.json").read_text())
        return info

    def write_info(self, info: dict[str, Any]) -> None:
        """Replace ``run.json``."""
        partial = self.path / "run.json.partial"
        partial.write_text(json.dumps(info, indent=2) + "\n")
        os.replace(partial, self.path / "run.json")

    def prompts(self) -> list[Prompt]:
        """The prompts that images were generated from, each once; none for a folder's run."""
        return read_records(self.path / "prompts.parquet", Prompt)

    def add_prompts(self, prompts: Sequence[Prompt]) -> None:
        """Keep these prompts too, in the place of those with the same id."""
        known = self.prompts()
        merged = list(({prompt.id: prompt for prompt in known} | {prompt.id: prompt for prompt in prompts}).values())
        if merged != known:
            write_records(self.path / "prompts.parquet", merged, Prompt)

    def samples(self) -> list[Sample]:
        """All samples, in the order they are kept."""
        return read_records(self.path / "samples.parquet", Sample)

    def write_samples(self, samples: list[Sample]) -> None:
        """Replace the table of samples."""
        write_records(self.path / "samples.parquet", samples, Sample)

    def scores(self) -> list[Score]:
        """All per-image scores, those of an interrupted command included."""
        files = score_files(self.path)
        if len(files) == 1:
            return read_records(files[0], Score)
        rows = {(score.sample_id, score.metric): score for file in files for score in read_records(file, Score)}
        return list(rows.values())

    def write_scores(self, scores: list[Score]) -> None:
        """Replace the per-image scores."""
        write_records(self.path / "scores.parquet", scores, Score)

    def set_scores(self) -> list[SetScore]:
        """All per-set scores."""
        return read_records(self.path / "set_scores.parquet", SetScore)

    def write_set_scores(self, scores: list[SetScore]) -> None:
        """Replace the per-set scores."""
        write_records(self.path / "set_scores.parquet", scores, SetScore)

    def votes(self) -> list[Vote]:
        """Votes of every file in ``votes/``, each once, in the order they were given."""
        files = sorted((self.path / "votes").glob("*.parquet"))
        votes = {vote.id: vote for file in files for vote in read_records(file, Vote)}
        return sorted(votes.values(), key=lambda vote: (vote.answered_at, vote.id))

    def image(self, sample: Sample) -> Path:
        """Where a sample's file is."""
        return self.image_root / sample.path

    @cached_property
    def image_root(self) -> Path:
        """What ``Sample.path`` is relative to: the scored folder for a run of kind ``folder``, else the run itself."""
        info = self.info if (self.path / "run.json").exists() else {}
        return Path(info["config"]["folder"]) if info.get("kind") == "folder" else self.path


def score_files(run: Path) -> list[Path]:
    """The files that hold a run's scores; a row of a later file replaces that of an earlier one."""
    whole = run / "scores.parquet"
    return [*([whole] if whole.exists() else []), *sorted((run / SCORE_PARTS).glob("*.parquet"))]


def provenance() -> dict[str, Any]:
    """Command, versions and machine, for ``run.json`` and the report."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    command = [Path(sys.argv[0]).name, *sys.argv[1:]]
    found = {"pixeval": __version__, "command": command, "versions": versions, "machine": platform.machine()}
    commit = code_commit()
    return found | ({"commit": commit} if commit is not None else {})


@cache
def code_commit() -> str | None:
    """The commit of the code that runs, with ``, changed`` where tracked files differ from it.

    None where the code is no checkout, as after an ordinary installation.
    """
    here = Path(__file__).parent
    try:
        # An installed package may lie inside a checkout of something else, which does not track it.
        _git(here, "ls-files", "--error-unmatch", Path(__file__).name)
        commit = _git(here, "rev-parse", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit[:12] + (", changed" if changed else "")


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
