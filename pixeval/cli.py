"""The one command. Verbs are imported when they are called, so that help and lists need no torch.

Exit codes: 0 done, 1 a run failed, 2 bad usage or input. JSON goes to stdout with ``--json``, progress to stderr.
"""

import errno
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields
from importlib import import_module
from typing import Any

from pixeval import __version__
from pixeval.config_file import OPTION, take_config, trainer_of, words_of
from pixeval.errors import InputError, unknown_name


@dataclass(frozen=True)
class Verb:
    """One verb: its configuration and the function that carries it out, both as ``module:attribute``."""

    summary: str
    config: str
    run: str
    show: str | None = None
    """Renders the result for a terminal; without it the result is printed as it is."""
    status: str | None = None
    """The exit code that follows from the result; without it 0."""
    positional: bool = False
    """All fields of the configuration are given by position."""


VERBS: dict[str, Verb] = {
    "demo": Verb("the whole loop on the bundled model", "pixeval.demo:DemoConfig", "pixeval.demo:demo"),
    "generate": Verb(
        "images for prompts x seeds",
        "pixeval.generate:GenerateConfig",
        "pixeval.generate:generate",
        "pixeval.run_text:render",
    ),
    "score": Verb(
        "scores for a run or a folder of images",
        "pixeval.scoring.evaluate:ScoreConfig",
        "pixeval.scoring.evaluate:score",
        "pixeval.scoring.summary:render",
        "pixeval.scoring.evaluate:failed",
    ),
    "plan-study": Verb(
        "prompts, votes, people and hours that a study needs",
        "human_eval_app.planner:PlanStudyConfig",
        "human_eval_app.planner:plan_study",
        "human_eval_app.planner:render",
    ),
    "label": Verb("the labelling app", "human_eval_app.serve:LabelConfig", "human_eval_app.serve:label"),
    "pairs": Verb("votes or scores to preference pairs", "pixeval.pairs:PairsConfig", "pixeval.pairs:make_pairs"),
    "train sft": Verb(
        "supervised fine-tuning, latent and pixel space",
        "trainers.sft:SftConfig",
        "pixeval.close_loop:train_or_plan",
        "pixeval.close_loop:render",
    ),
    "train preference": Verb(
        "DPO, SimPO, IPO or MaPO on pairs, latent and pixel space",
        "trainers.preference:PreferenceConfig",
        "pixeval.close_loop:train_or_plan",
        "pixeval.close_loop:render",
    ),
    "train image-to-image": Verb(
        "restoration and dense prediction in one step",
        "trainers.image_to_image:ImageToImageConfig",
        "pixeval.close_loop:train_or_plan",
        "pixeval.close_loop:render",
    ),
    "reward train": Verb(
        "a reward model from votes or pairs",
        "reward_models.train:RewardTrainConfig",
        "reward_models.train:train",
        "reward_models.train:render",
    ),
    "reward evaluate": Verb(
        "a reward model against people, under the published protocols",
        "reward_models.evaluate:RewardEvaluateConfig",
        "reward_models.evaluate:evaluate",
        "reward_models.evaluate:render",
    ),
    "reward audit": Verb(
        "try to fool a reward: score card of what raises it",
        "reward_models.audit:RewardAuditConfig",
        "reward_models.audit:audit",
        "reward_models.audit:render",
    ),
    "reward judge": Verb(
        "a language model behind an endpoint as judge of pairs, both orders",
        "reward_models.ask_judge:RewardJudgeConfig",
        "reward_models.ask_judge:judge",
    ),
    "reward flaw-map": Verb(
        "where images are flawed, from planted flaws and annotators' marks",
        "reward_models.train_flaw_map:FlawMapConfig",
        "reward_models.train_flaw_map:train_map",
    ),
    "reward serve": Verb(
        "a reward as a JSON service", "reward_models.serve:RewardServeConfig", "reward_models.serve:serve"
    ),
    "validate": Verb(
        "how far metrics can be trusted, on planted flaws or human labels",
        "pixeval.validation.validate:ValidateConfig",
        "pixeval.validation.validate:validate",
        "pixeval.validation.validate:render",
    ),
    "compare": Verb(
        "win/tie/loss, score changes and ranks of two or more runs",
        "reports.compare:CompareConfig",
        "reports.compare:compare",
        "reports.compare:render",
    ),
    "watch": Verb(
        "scores checkpoints as they land, names the best, warns of reward hacking",
        "reports.watch:WatchConfig",
        "reports.watch:watch",
        "reports.watch:render",
        "reports.watch:status",
    ),
    "gate": Verb(
        "an exit code for CI: does a candidate hold to rules against a baseline",
        "reports.gate:GateConfig",
        "reports.gate:gate",
        "reports.gate:render",
        "reports.gate:status",
    ),
    "report": Verb("one self-contained HTML page", "reports.build:ReportConfig", "reports.build:build_report"),
    "list": Verb(
        "metrics, models and prompt suites",
        "pixeval.listing:ListConfig",
        "pixeval.listing:listing",
        "pixeval.listing:render",
        positional=True,
    ),
    "show": Verb(
        "what low, middle and high values of a metric look like",
        "pixeval.show:ShowConfig",
        "pixeval.show:show",
        "pixeval.show:render",
        "pixeval.show:failed",
    ),
    "cache": Verb(
        "what is cached of scores and features",
        "pixeval.scoring.cache:CacheConfig",
        "pixeval.scoring.cache:cache",
        "pixeval.scoring.cache:render",
    ),
    "doctor": Verb(
        "what is installed and what is wrong",
        "pixeval.doctor:DoctorConfig",
        "pixeval.doctor:doctor",
        "pixeval.doctor:render",
    ),
}


REMEDIES = {
    (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM): (
        "What was finished is kept. Free some space or change its permissions, then run the same command again."
    ),
    (errno.ENOTDIR, errno.EEXIST, errno.EISDIR): (
        "A file lies where a folder is needed, or a folder where a file is; give another path."
    ),
    (errno.ENAMETOOLONG, errno.ELOOP): "Give another path.",
}
"""What to do about errors of the file system that a user can mend."""


def main(arguments: list[str] | None = None) -> None:
    """Run ``pixeval``; ends the process with one of the exit codes above."""
    try:
        sys.exit(run(sys.argv[1:] if arguments is None else arguments))
    finally:
        _finish_output()


def run(arguments: list[str]) -> int:
    """Run ``pixeval`` with these arguments and return the exit code."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(__version__)
        return 0
    try:
        name, rest = split_verb(arguments)
        return call(name, rest)
    except InputError as error:
        print(f"pixeval: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\npixeval: interrupted; the same command continues where this one stopped", file=sys.stderr)
        return 1
    except FloatingPointError as error:
        print(f"pixeval: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        remedy = next((words for numbers, words in REMEDIES.items() if error.errno in numbers), None)
        if remedy is None:
            raise
        where = error.filename2 or error.filename or "the output folder"
        print(f"pixeval: cannot use {where}: {error.strerror}. {remedy}", file=sys.stderr)
        return 2


def _finish_output() -> None:
    """Write what is held back, unless the reader has enough and went, as in ``pixeval list | head``."""
    if sys.stdout is None:  # closed from the start, as by >&-
        return
    try:
        sys.stdout.flush()
    except OSError:  # a full disk was told of before
        # Python tries once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def split_verb(arguments: list[str]) -> tuple[str, list[str]]:
    """The verb, of one or two words, and what follows it.

    Raises:
        InputError: there is no such verb.
    """
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in VERBS:
            return name, arguments[words:]
    first = arguments[0]
    file, rest = take_config(arguments[1:])
    if first == "train" and file is not None and (not rest or rest[0].startswith("-")):
        name = f"train {trainer_of(file)}"
        if name in VERBS:
            return name, arguments[1:]
        raise unknown_name(f"trainer in {file}:", name.split()[1], {v.split()[1] for v in VERBS if v[:6] == "train "})
    below = [name for name in VERBS if name.startswith(first + " ")]
    if below and (len(arguments) == 1 or arguments[1].startswith("-")):
        raise InputError(f"say which: {', '.join('pixeval ' + name for name in below)}")
    raise unknown_name("command", " ".join(arguments[:2]) if below else first, VERBS)


def call(name: str, arguments: list[str]) -> int:
    """Parse the arguments of a verb, carry it out and print its result."""
    verb = VERBS[name]
    as_json = "--json" in arguments
    arguments = [argument for argument in arguments if argument != "--json"]
    file, arguments = take_config(arguments)
    if file is not None and name != "label" and not name.startswith("train "):
        raise InputError(
            f"{OPTION} is for 'pixeval train' and 'pixeval label'; give the options of 'pixeval {name}' themselves"
        )
    if file is not None:
        settings: Any = attribute(verb.config)
        arguments = [*words_of(file, settings, name, arguments), *arguments]
    config = parse(attribute(verb.config), arguments, f"pixeval {name}", verb.summary, verb.positional)
    result = attribute(verb.run)(config)
    if result is None:
        return 0
    if as_json or (verb.show is None and isinstance(result, dict)):
        shown = json.dumps(plain(result), indent=2, allow_nan=False)
    else:
        shown = attribute(verb.show)(result) if verb.show is not None else result
    with suppress(BrokenPipeError):
        print(shown, flush=True)
    code: int = attribute(verb.status)(result) if verb.status is not None else 0
    return code


def parse(config: Any, arguments: list[str], program: str, summary: str, positional: bool = False) -> Any:
    """A configuration dataclass from command-line words; positional where the field or ``positional`` says so."""
    defaults = all(f.default is not MISSING or f.default_factory is not MISSING for f in fields(config))
    if not arguments and defaults:
        return config()  # nothing to parse: saves the time of importing the parser
    import tyro

    style: tuple[Any, ...] = (tyro.conf.PositionalMetavarFromFieldName, tyro.conf.FlagConversionOff)
    if positional:
        style = (tyro.conf.Positional, tyro.conf.FlagConversionOff)
    return tyro.cli(config, args=_with_true(config, arguments), prog=program, description=summary, config=style)


def _with_true(config: Any, arguments: list[str]) -> list[str]:
    """``--flag`` without a value means ``--flag True``."""
    switches = {"--" + f.name.replace("_", "-") for f in fields(config) if f.type in (bool, "bool")}
    whole = []
    for word, following in zip(arguments, [*arguments[1:], "--"][: len(arguments)], strict=True):
        bare = word.replace("_", "-") in switches and following not in ("True", "False")
        whole += [word, "True"] if bare else [word]
    return whole


def attribute(path: str) -> Callable[..., Any]:
    """What ``module:attribute`` names."""
    module, name = path.split(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


def plain(result: Any) -> Any:
    """A result as JSON can hold it."""
    if isinstance(result, dict):
        return {str(key): plain(value) for key, value in result.items()}
    if isinstance(result, list | tuple):
        return [plain(value) for value in result]
    if result is None or isinstance(result, bool | int | float | str):
        return result
    path = getattr(result, "path", result)
    return str(path)


def usage() -> str:
    """The table of verbs."""
    width = max(len(name) for name in VERBS)
    lines = [f"  {name:{width}}  {verb.summary}" for name, verb in VERBS.items()]
    head = "usage: pixeval VERB ...   (pixeval VERB --help tells its options; --json prints JSON)"
    foot = "  pixeval train --config FILE.toml runs a recipe (see examples/); options beside it come first"
    return "\n".join([head, "", *lines, "", foot])
