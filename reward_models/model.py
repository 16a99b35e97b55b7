"""The reward model: one class that trains, scores, and serves as a differentiable reward on pixels.

A saved model is a folder, nothing in it is pickled::

    reward.json          encoder by name and fingerprint, views, questions, calibration, figures of the training
    reward.safetensors   heads, standardisation; adapters of the encoder where it was tuned
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pixeval.encoders import ClipEncoder
from pixeval.errors import InputError, unknown_name
from pixeval.metrics.arguments import check_pairs
from pixeval.protocols import Encoder
from pixeval.records import QUESTIONS
from pixeval.weight_files import digest, read_weights
from reward_models.adapters import Adaptation, adapt, adapter_tensors, load_adapters
from reward_models.heads import Heads
from reward_models.views import Detail, DinoEncoder, FlawView, check_folder, detail_views, load_encoder

FORMAT = 2
OVERALL = "overall"
"""The question that all judgements answer, whatever was asked."""
HEADS = (*QUESTIONS, OVERALL)


@dataclass(frozen=True)
class Calibration:
    """What makes probabilities of differences, for one question; see :mod:`reward_models.calibrate`."""

    temperature: float = 1.0
    """Raw rewards are divided by it; what is reported is in units of log odds, before lapses."""
    lapses: tuple[float, float] | None = None
    """Share of lapses and slope of :func:`reward_models.calibrate.lapsing_chance`; none for too few votes."""
    knots: tuple[tuple[float, float], ...] = ()
    """Isotonic map of the probability that the better-looking of two wins, as (predicted, calibrated); empty for
    none."""


@dataclass(frozen=True)
class Design:
    """What a model is built of."""

    encoder: str = "bundled"
    """As :func:`reward_models.views.load_encoder` takes it."""
    detail: tuple[Detail, ...] = ("crops", "flaws")
    """Views beside the whole one at the encoder's size; none for the whole view alone."""
    members: int = 5
    """Heads of the ensemble, each trained on a bootstrap sample of the prompts."""
    hidden: int = 0
    """Width of a hidden layer in each head; 0 for linear heads."""
    lora: Adaptation | None = None
    """Adapters of the encoder; none for a frozen one."""


@dataclass(frozen=True)
class Opinion:
    """What the ensemble says about images on one question, in units of log odds (before lapses)."""

    mean: Tensor
    """(N,)"""
    deviation: Tensor
    """(N,): standard deviation over the members; 0 for a single one."""

    def conservative(self, k: float) -> Tensor:
        """mean - k deviations, (N,)."""
        return self.mean - k * self.deviation


@dataclass
class RewardModel:
    """Rewards of images for prompts; higher is better, and only differences on one prompt mean something.

    The difference of two rewards is the log odds that the first image is preferred, if nobody lapsed; what lapses leave
    of them is told by :meth:`probability`. Encoder and detectors are frozen, and the whole is differentiable to the
    pixels as far as the detectors are.
    """

    design: Design
    encoder: ClipEncoder | DinoEncoder
    views: dict[str, Encoder]
    heads: Heads
    calibration: dict[str, Calibration] = field(default_factory=dict)
    """By question; a question without one was not trained."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What the training measured; JSON."""

    @classmethod
    def new(cls, design: Design, device: str = "cpu", seed: int = 0) -> "RewardModel":
        """An untrained model.

        Raises:
            InputError: an unknown encoder, or adapters that fit none of its layers.
        """
        encoder = load_encoder(design.encoder, device)
        if design.lora is not None:
            adapt(encoder, design.lora, seed)
        return cls._built(design, encoder, detail_views(encoder, design.detail), seed).to(device)

    @classmethod
    def _built(
        cls, design: Design, encoder: ClipEncoder | DinoEncoder, views: dict[str, Encoder], seed: int
    ) -> "RewardModel":
        heads = Heads(_widths(encoder, views), design.members, len(HEADS), design.hidden, seed)
        return cls(design, encoder, views, heads)

    @classmethod
    def load(cls, folder: str | Path, device: str = "cpu") -> "RewardModel":
        """A saved model.

        Raises:
            InputError: no such model, a damaged one, or an encoder or view that is no longer what it was trained with.
        """
        told = read_facts(Path(folder))
        tensors = read_weights(Path(folder) / "reward.safetensors", f"the reward model {folder}")
        design, calibration = _built_of(told, Path(folder))
        used = load_encoder(design.encoder, device)
        if used.fingerprint != told["encoder"]:
            raise InputError(
                f"{folder} was trained with another encoder than {design.encoder!r} is now "
                f"({told['encoder']}, not {used.fingerprint}); restore its files, or train again"
            )
        if design.lora is not None:
            adapt(used, design.lora, 0)
            load_adapters(used, tensors)
        views = detail_views(used, design.detail, told["detectors"])
        _check_views(views, told, folder)
        model = cls._built(design, used, views, 0)
        own = {name.removeprefix("heads."): value for name, value in tensors.items() if name.startswith("heads.")}
        try:
            model.heads.load_state_dict(own)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{folder}/reward.safetensors does not fit its reward.json: {reason}") from error
        model.calibration = calibration
        model.facts = told["facts"]
        return model.to(device).frozen()

    def save(self, folder: Path) -> None:
        """Write ``reward.json`` and ``reward.safetensors`` into ``folder``, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            f"heads.{name}": value.detach().cpu().contiguous() for name, value in self.heads.state_dict().items()
        }
        if self.design.lora is not None:
            tensors |= adapter_tensors(self.encoder)
        flaws = self.views.get("flaws")
        told = {
            "format": FORMAT,
            "design": {**asdict(self.design), "encoder": check_folder(self.design.encoder)},
            "encoder": self.encoder.fingerprint,
            "views": {name: view.fingerprint for name, view in self.views.items()},
            "detectors": flaws.names if isinstance(flaws, FlawView) else [],
            "calibration": {q: asdict(found) for q, found in self.calibration.items()},
            "facts": self.facts,
        }
        partial = folder / "reward.safetensors.partial"
        save_file(tensors, partial)
        partial.replace(folder / "reward.safetensors")
        text = folder / "reward.json.partial"
        text.write_text(json.dumps(told, indent=1, allow_nan=False) + "\n")
        text.replace(folder / "reward.json")

    def to(self, device: str) -> "RewardModel":
        """Move the weights; returns itself."""
        self.encoder.to(device)
        self.heads.to(device)
        self.views = detail_views(self.encoder, self.design.detail, self.detectors)
        return self

    def frozen(self) -> "RewardModel":
        """Ask for no gradients of weights; returns itself."""
        self.heads.requires_grad_(False).eval()
        self.encoder.model.requires_grad_(False)
        return self

    @property
    def detectors(self) -> list[str]:
        """Flaw metrics among the views."""
        flaws = self.views.get("flaws")
        return flaws.names if isinstance(flaws, FlawView) else []

    @property
    def sees_prompts(self) -> bool:
        """Whether it can judge alignment; an encoder without a text side cannot."""
        return isinstance(self.encoder, ClipEncoder)

    def trained_on(self, prompts: Iterable[str]) -> int:
        """How many of these prompts it was trained on."""
        known = set(str(self.facts.get("trained_prompts", "")).split())
        return sum(prompt_mark(prompt) in known for prompt in set(prompts))

    @property
    def fingerprint(self) -> str:
        """Of encoder, adapters, views with their versions, weights and calibration: of all that rewards depend on."""
        weights = digest({**self.heads.state_dict(), **adapter_tensors(self.encoder)})
        lora = None if self.design.lora is None else asdict(self.design.lora)
        views = {name: view.fingerprint for name, view in self.views.items()}
        calibration = {question: asdict(found) for question, found in self.calibration.items()}
        told = json.dumps([views, lora, calibration], sort_keys=True)
        parts = f"{weights}/{hashlib.sha256(told.encode()).hexdigest()[:12]}"
        return f"reward/2/{self.encoder.fingerprint}/{'+'.join(sorted(self.views)) or 'whole'}/{parts}"

    @property
    def questions(self) -> tuple[str, ...]:
        """What it was trained on."""
        return tuple(q for q in HEADS if q in self.calibration)

    def image_features(self, images: Tensor, whole: Tensor | None = None) -> dict[str, Tensor]:
        """Features of each view, N x width; ``whole`` where the encoder's own are there already."""
        found = {"whole": self.encoder(images) if whole is None else whole}
        return found | {name: view(images) for name, view in self.views.items()}

    def text_features(self, prompts: Sequence[str]) -> Tensor | None:
        """N x D, each distinct prompt encoded once; None for encoders without a text side."""
        if not isinstance(self.encoder, ClipEncoder):
            return None
        distinct = list(dict.fromkeys(prompts))
        place = {prompt: row for row, prompt in enumerate(distinct)}
        with torch.no_grad():
            rows = self.encoder.encode_text(distinct)
        return rows[[place[prompt] for prompt in prompts]]

    def joined(self, views: Mapping[str, Tensor], text: Tensor | None) -> Tensor:
        """N x D inputs of the heads: views side by side, and the whole image against its prompt."""
        parts = [views["whole"]]
        if text is not None:
            product = views["whole"] * text
            parts += [product.sum(1, keepdim=True), product]
        for name, view in self.views.items():
            parts.append(view.inputs(views[name]) if isinstance(view, FlawView) else views[name])
        return torch.cat(parts, 1)

    def opinion(self, images: Tensor, prompts: Sequence[str], question: str = OVERALL) -> Opinion:
        """What the ensemble says about N x 3 x H x W images in [0, 1].

        Raises:
            InputError: see :func:`pixeval.metrics.arguments.check_pairs`; or it was not trained on this question.
        """
        texts = check_pairs("reward", images, prompts)
        return self.opinion_of(self.joined(self.image_features(images), self.text_features(texts)), question)

    def opinion_of(self, inputs: Tensor, question: str = OVERALL) -> Opinion:
        """As :meth:`opinion`, from :meth:`joined` features."""
        if question not in self.calibration:
            raise unknown_name("question of this reward model", question, self.calibration)
        rewards = self.heads(inputs)[..., HEADS.index(question)] / self.calibration[question].temperature
        return Opinion(rewards.mean(1), rewards.std(1, correction=0))

    def probability(self, first: Tensor, second: Tensor, question: str = OVERALL) -> Tensor:
        """That the first image is preferred where one is, lapses included; in [lapse / 2, 1 - lapse / 2].

        lapse / 2 + (1 - lapse) sigma(slope x difference), as of :func:`reward_models.calibrate.lapsing_chance`; without
        lapses, where too few votes were held out to find them, the logistic function alone.

        Args:
            first, second: rewards of images of one prompt, as the means of :meth:`opinion`; of shapes that broadcast.
            question: what they were rewarded for.

        Raises:
            InputError: it was not trained on this question.
        """
        if question not in self.calibration:
            raise unknown_name("question of this reward model", question, self.calibration)
        share, slope = self.calibration[question].lapses or (0.0, 1.0)
        return share / 2 + (1 - share) * torch.sigmoid(slope * (first - second))


def _widths(encoder: ClipEncoder | DinoEncoder, views: Mapping[str, Encoder]) -> dict[str, int]:
    probe = torch.full((1, 3, 32, 32), 0.5, device=encoder.device)
    with torch.no_grad():
        width = encoder(probe).shape[1]
    against = {"match": 1, "product": width} if isinstance(encoder, ClipEncoder) else {}
    rest = {name: 2 * (view.width if isinstance(view, FlawView) else width) for name, view in views.items()}
    return {"whole": width, **against, **rest}


def prompt_mark(prompt: str) -> str:
    """Eight hexadecimal digits by which a model remembers a prompt that it was trained on."""
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def read_facts(folder: Path) -> dict[str, Any]:
    """``reward.json`` of a saved model.

    Raises:
        InputError: there is none, or it is damaged.
    """
    file = folder / "reward.json"
    if not file.is_file():
        raise InputError(f"{folder} is no reward model: it has no reward.json. Make one with 'pixeval reward train'.")
    try:
        told: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        wanted = ("format", "design", "encoder", "views", "detectors", "calibration", "facts")
        missing = [key for key in wanted if key not in told]
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, TypeError) as error:
        raise InputError(f"{file} is damaged ({error}); train the model again") from error
    if missing:
        raise InputError(f"{file} has no {missing[0]!r}; train the model again")
    if told["format"] != FORMAT:
        raise InputError(f"{file} has format {told['format']}; this is format {FORMAT}. Train the model again.")
    return told


def _built_of(told: Mapping[str, Any], folder: Path) -> tuple[Design, dict[str, Calibration]]:
    row = told["design"]
    try:
        lora = Adaptation(**{**row["lora"], "targets": tuple(row["lora"]["targets"])}) if row["lora"] else None
        design = Design(**{**row, "detail": tuple(row["detail"]), "lora": lora})
        calibration = {q: _calibration(found) for q, found in told["calibration"].items()}
        kinds: list[tuple[object, type]] = [(design.encoder, str), (design.members, int), (design.hidden, int)]
        kinds += [(told["detectors"], list), (told["views"], dict), (told["facts"], dict)]
        kinds += [(x, float) for found in calibration.values() for x in (found.temperature, *(found.lapses or ()))]
        wrong = [value for value, kind in kinds if not isinstance(value, kind)]
        if wrong or design.members < 1 or design.hidden < 0:
            raise ValueError(f"{wrong[0]!r} has the wrong kind" if wrong else "a size is negative")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{folder}/reward.json is damaged ({error}); train the model again") from error
    return design, calibration


def _check_views(views: Mapping[str, Encoder], told: Mapping[str, Any], folder: str | Path) -> None:
    for name, view in views.items():
        if view.fingerprint != told["views"].get(name):
            what = "the flaw detectors" if name == "flaws" else f"the view {name!r}"
            raise InputError(
                f"{folder} was trained with another version of {what} than this pixeval has; train it again, into "
                "another folder"
            )


def _calibration(row: Mapping[str, Any]) -> Calibration:
    lapses = None if row["lapses"] is None else (row["lapses"][0], row["lapses"][1])
    return Calibration(row["temperature"], lapses, tuple((a, b) for a, b in row["knots"]))
