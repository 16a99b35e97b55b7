"""A folder of ordinary images, seen as samples; with a file of prompts if there is one."""

import csv
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixeval.errors import InputError
from pixeval.images import list_images
from pixeval.json_lines import parse_json_lines
from pixeval.records import Sample, sample_id
from pixeval.runs import Run

NAME_COLUMNS = ("file_name", "filename", "file", "image", "path", "name")
PROMPT_COLUMNS = ("prompt", "text", "caption")


@dataclass(frozen=True)
class ImageSet:
    """Samples and where their files are."""

    name: str
    root: Path
    """``Sample.path`` is relative to it."""
    samples: tuple[Sample, ...]

    @classmethod
    def open(cls, source: "Run | Path") -> "ImageSet":
        """The images of a run, or of a folder, which is left as it is.

        Raises:
            InputError: ``source`` does not exist or holds no images.
        """
        if isinstance(source, Path) and not (source / "run.json").exists():
            return cls(source.resolve().name, source, tuple(folder_samples(source)))
        run = source if isinstance(source, Run) else Run.open(source)
        samples = run.samples()
        if not samples:
            raise InputError(f"{run.path} holds no samples yet; generate some first")
        return cls(run.name, run.image_root, tuple(samples))

    def file(self, sample: Sample) -> Path:
        """Where a sample's file is."""
        return self.root / sample.path


def folder_run(folder: Path, out: Path, prompts: Path | None = None) -> Run:
    """Make or reopen the run at ``out`` that holds the scores of ``folder``, and bring its samples up to date.

    Raises:
        InputError: no images in ``folder``, a bad prompt file, or ``out`` holds something else.
    """
    if out.resolve() == folder.resolve():
        raise InputError(f"{folder} itself cannot be the run; give another folder for the scores (--out)")
    samples = folder_samples(folder, prompts, leave_out=out)
    run = Run.create(out, "folder", {"folder": str(folder.resolve())})
    if run.samples() != samples:
        run.write_samples(samples)
    return run


def folder_samples(folder: Path, prompts: Path | None = None, leave_out: Path | None = None) -> list[Sample]:
    """One sample per image file below ``folder``, sorted by path.

    The id follows from folder name, path, contents and prompt, so that a changed file or prompt is a new sample. A
    file that cannot be read is a sample all the same: its scores will say why they are missing.

    Raises:
        InputError: no such folder, no images in it, or a bad prompt file.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give a run folder or a folder of images")
    files = list_images(folder)
    if leave_out is not None and leave_out.resolve().is_relative_to(folder.resolve()):
        files = [file for file in files if not file.resolve().is_relative_to(leave_out.resolve())]
    if not files:
        raise InputError(f"{folder} holds no images (.png, .jpg, .webp, .bmp, .tif); give a folder that does")
    texts = read_prompt_file(prompts) if prompts is not None else {}
    names = [_name(file, folder) for file in files]
    unknown = sorted(set(texts) - set(names))
    if unknown:
        shown = ", ".join(repr(name) for name in unknown[:3])
        raise InputError(
            f"{prompts} names {len(unknown)} file(s) that are not in {folder}: {shown}. Names are relative to the "
            "folder, with their extension."
        )
    label = folder.resolve().name
    return [_sample(file, name, label, texts.get(name)) for file, name in zip(files, names, strict=True)]


def _name(file: Path, folder: Path) -> str:
    name = file.relative_to(folder).as_posix()
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the name of {name!r} is not UTF-8 and cannot be kept in a table; rename the file") from error
    return name


def _sample(file: Path, name: str, label: str, prompt: str | None) -> Sample:
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        digest = ""
    generator = f"folder:{label}"
    prompt_id = None if prompt is None else "p-" + hashlib.sha256(prompt.encode()).hexdigest()[:12]
    identity = sample_id(generator, prompt_id, None, f"{name}\x1f{digest}")
    return Sample(identity, label, prompt_id, prompt, None, generator, name, digest)


def read_prompt_file(path: Path) -> dict[str, str]:
    """Prompt by file name, from CSV or JSON lines; entries with an empty prompt are left out.

    The file name stands in a column ``file_name`` (or ``file``, ``image``, ``path``, ``name``), the prompt in
    ``prompt`` (or ``text``, ``caption``), as in the ``metadata.csv`` of a Hugging Face image folder.

    Raises:
        InputError: the file is missing, damaged, empty, lacks a column, or gives one image two prompts.
    """
    rows = _rows(path)
    if not rows:
        raise InputError(f"{path} holds no prompts; write a line per image with file_name and prompt")
    texts: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        name, prompt = _cell(row, NAME_COLUMNS, path, number), _cell(row, PROMPT_COLUMNS, path, number)
        name = Path(name.strip()).as_posix()
        if texts.get(name, prompt.strip()) != prompt.strip():
            raise InputError(f"{path} gives {name!r} two different prompts (entry {number}); keep one")
        texts[name] = prompt.strip()
    return {name: prompt for name, prompt in texts.items() if prompt}


def _rows(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            return list(csv.DictReader(io.StringIO(text, newline="")))
        if path.suffix.lower() in (".jsonl", ".ndjson"):
            return parse_json_lines(text, path)
    except OSError as error:
        raise InputError(f"prompt file {path} cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"prompt file {path} is damaged: {error}") from error
    raise InputError(f"prompt file {path} must be .csv or .jsonl, with the file name and the prompt of each image")


def _cell(row: Any, columns: tuple[str, ...], path: Path, number: int) -> str:
    found = next((column for column in columns if isinstance(row, dict) and column in row), None)
    if found is None:
        has = ", ".join(map(str, row)) if isinstance(row, dict) else repr(row)
        raise InputError(f"{path}, entry {number}: no column {columns[0]!r} (found: {has})")
    value = row[found]
    if value is not None and not isinstance(value, str):
        raise InputError(f"{path}, entry {number}: {found} must be text, got {value!r}")
    return value or ""
