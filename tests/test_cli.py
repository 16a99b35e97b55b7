"""The command: help, errors, exit codes, and what it does not import."""

import errno
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from pixeval import cli
from pixeval.doctor import DoctorConfig, doctor
from pixeval.errors import InputError

ROOT = Path(__file__).parents[1]


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(verb in printed for verb in cli.VERBS)
    assert cli.run([]) == 2


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_is_there_and_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    entry = cli.VERBS[verb]
    assert all(callable(cli.attribute(path)) for path in (entry.config, entry.run, entry.show) if path)
    with pytest.raises(SystemExit) as end:
        cli.run([*verb.split(), "--help"])
    assert end.value.code == 0
    assert f"pixeval {verb}" in capsys.readouterr().out


def test_help_and_list_import_no_torch() -> None:
    code = "import sys; from pixeval.cli import run; run(['--help']); run(['list']); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "False"
    assert "clip_score" in result.stdout
    assert "icons-eval" in result.stdout


def test_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    by_name = {row["name"]: row for row in found["metrics"]}
    assert by_name["psnr"]["better"] == "higher"
    assert by_name["psnr"]["range"][1] is None
    assert {row["name"] for row in found["suites"]} == {"general", "icons-eval", "icons-tune"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["scor"], "Did you mean 'score'"),
        (["train"], "say which: pixeval train sft"),
        (["train", "dpo"], "unknown command 'train dpo'"),
        (["generate", "zoo:nothing", "icons-eval", "--out", "x"], "unknown bundled model"),
        (["score", "nowhere"], "nowhere"),
        (["score", ".", "--metrics", "niqee"], "niqee"),
        (["report", "nowhere"], "nowhere"),
        (["label", "nowhere", "elsewhere"], "nowhere"),
        (["pairs", "nowhere", "--out", "x"], "nowhere"),
    ],
)
def test_bad_input_is_named_and_exits_with_2(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(words) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_an_unknown_option_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.run(["score", "x", "--metrik", "y"])
    assert end.value.code == 2
    assert "metrik" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (InputError("x.png is bad; mend it"), 2, "pixeval: x.png is bad; mend it"),
        (OSError(errno.ENOSPC, "No space left on device", "big.bin"), 2, "cannot use big.bin: No space left"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"), 2, "cannot use a/b: Not a directory. A file"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "x.partial", None, "x"), 2, "cannot use x: Is a directory"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "aaa"), 2, "File name too long. Give another path"),
        (FloatingPointError("the loss is nan at step 3"), 1, "the loss is nan at step 3"),
        (KeyboardInterrupt(), 1, "the same command continues"),
    ],
)
def test_failures_of_a_verb(
    error: BaseException, code: int, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(config: Any) -> None:
        raise error

    monkeypatch.setattr("pixeval.listing.listing", fail)
    assert cli.run(["list"]) == code
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("end", ["reader went", "closed"])
def test_output_that_nobody_reads_is_no_failure(end: str) -> None:
    """``pixeval list --json | head -1`` and ``pixeval list >&-``."""
    program = "import sys; sys.stdout = None; " if end == "closed" else ""
    program += "from pixeval.cli import main; main(['list', '--json'])"
    command = [sys.executable, "-c", program]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert (process.wait(60), process.stderr.read()) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_output_to_a_full_disk_is_told() -> None:
    command = [sys.executable, "-c", "from pixeval.cli import main; main(['list', 'suites', '--json'])"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "No space left on device" in done.stderr


def test_the_doctor_looks_at_everything() -> None:
    result = doctor(DoctorConfig())
    found = {row["what"]: row for row in result["findings"]}
    assert {"torch", "diffusers", "zoo:unet", "zoo:dit", "zoo:clip", "device", "disk"} <= set(found)
    bad = [row for row in result["findings"] if not row["good"] and row["what"] != "disk"]
    assert not bad


def test_the_constraints_pin_what_is_installed() -> None:
    from importlib import metadata

    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = [line.split(">=")[0].replace("_", "-").lower() for line in wanted]
    assert all(name in pinned for name in names), sorted(set(names) - set(pinned))
    assert all(metadata.version(name) == pinned[name] for name in names)
