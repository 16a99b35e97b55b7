"""Open-vocabulary detectors of transformers: where in an image are the things of a given name."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import nms  # type: ignore[import-untyped]

from pixeval.errors import InputError
from pixeval.images import to_uint8
from pixeval.pretrained import load_model, load_processor
from pixeval.weight_files import digest

THRESHOLDS = {"owlvit": 0.1, "owlv2": 0.2, "grounding-dino": 0.35, "mm-grounding-dino": 0.35}
"""Least confidence by ``model_type``. Grounding DINO's is its authors' for boxes; the scores of OWLv2 are lower."""
MAX_OVERLAP = 0.5
"""Intersection over union above which the less sure of two boxes of one name is dropped."""
OWL_QUERY = "a photo of a {}"


@dataclass(frozen=True)
class Box:
    """One thing that was found."""

    left: float
    top: float
    right: float
    bottom: float
    """Edges in pixels of the image; x grows to the right, y downwards."""
    score: float
    """Confidence in [0, 1]."""


class Detector:
    """OWL-ViT, OWLv2 or Grounding DINO. Computes in float32, since confidences are compared with a threshold."""

    def __init__(self, model: Any, processor: Any, threshold: float | None = None) -> None:
        """``threshold``: least confidence of a box; by default that of the kind of model.

        Raises:
            InputError: a kind of model that is not known here.
        """
        self.kind: str = model.config.model_type
        if self.kind not in THRESHOLDS:
            raise InputError(f"a {self.kind} model is no detector known here; give one of {', '.join(THRESHOLDS)}")
        self.model, self.processor = model, processor
        self.threshold = THRESHOLDS[self.kind] if threshold is None else threshold
        self.fingerprint = f"{type(model).__name__}-{digest(model.state_dict())}/{self.threshold:g}/{MAX_OVERLAP:g}"

    @classmethod
    def load(cls, source: str) -> "Detector":
        """From a local folder or by hub name; loaded once however many metrics ask with it.

        Raises:
            InputError: see :func:`pixeval.pretrained.load_model`, or a kind of model that is not known here.
        """
        return _loaded(source)

    def to(self, device: str) -> "Detector":
        """Move the weights; returns itself."""
        self.model.to(device)
        return self

    def __call__(self, images: Tensor, names: Sequence[str]) -> list[dict[str, list[Box]]]:
        """For each of N x 3 x H x W images the boxes of each name, surest first; a box belongs to one name only.

        Raises:
            InputError: a name is longer than the detector's context.
        """
        if (reason := self.hindrance(names)) is not None:
            raise InputError(reason)
        pictures = [Image.fromarray(array) for array in to_uint8(images)]
        inputs = self.processor(
            images=pictures, text=[self._queries(names)] * len(pictures), return_tensors="pt", padding=self._padding
        ).to(self.model.device)
        with torch.no_grad():
            outputs = self.model(**inputs)
        height, width = images.shape[-2:]
        if self.kind.startswith("owl"):
            sizes = torch.tensor([[height, width]] * len(pictures))
            found = self.processor.post_process_grounded_object_detection(outputs, self.threshold, sizes)
            rows = [_Found(entry["boxes"], entry["scores"], entry["labels"]) for entry in found]
        else:
            tokens = inputs["input_ids"]
            rows = [self._grounded(outputs, i, tokens[i], (height, width), len(names)) for i in range(len(pictures))]
        return [_by_name(row, names, height, width) for row in rows]

    def hindrance(self, names: Sequence[str]) -> str | None:
        """Why these names cannot be looked for, if so."""
        tokenizer, text = self.processor.tokenizer, self.model.config.text_config
        if self.kind.startswith("owl"):
            lengths, room = [len(tokenizer(q).input_ids) for q in self._queries(names)], text.max_position_embeddings
        else:
            joined = ". ".join(self._queries(names)) + "."
            lengths, room = [len(tokenizer(joined).input_ids)], self.model.config.max_text_len
        if max(lengths) <= room:
            return None
        return f"the names of the objects have {max(lengths)} tokens; the detector's context is {room}"

    @property
    def _padding(self) -> str:
        return "max_length" if self.kind.startswith("owl") else "longest"

    def _queries(self, names: Sequence[str]) -> list[str]:
        if self.kind.startswith("owl"):
            return [OWL_QUERY.format(name) for name in names]
        # a full stop ends a phrase for Grounding DINO, so that a name must hold none
        return [name.lower().replace(".", " ").strip() for name in names]

    def _grounded(self, outputs: Any, i: int, tokens: Tensor, size: tuple[int, int], count: int) -> "_Found":
        """Boxes, scores and labels: a phrase's score is that of its surest token."""
        phrases = _phrases(tokens, self.processor.tokenizer)
        chances = outputs.logits[i].sigmoid()[:, : len(tokens)]
        by_phrase = torch.stack([chances[:, phrases == k].amax(1) for k in range(count)], 1)
        scores, labels = by_phrase.max(1)
        x, y, width, height = outputs.pred_boxes[i].unbind(-1)
        edges = torch.stack((x - width / 2, y - height / 2, x + width / 2, y + height / 2), -1)
        keep = scores > self.threshold
        rows, columns = size
        return _Found(edges[keep] * edges.new_tensor([columns, rows, columns, rows]), scores[keep], labels[keep])


@dataclass(frozen=True)
class _Found:
    """K x 4 edges in pixels, (K,) scores and (K,) numbers of names."""

    edges: Tensor
    scores: Tensor
    labels: Tensor


def _by_name(found: _Found, names: Sequence[str], height: int, width: int) -> dict[str, list[Box]]:
    limits = torch.tensor([width, height, width, height])
    edges = found.edges.float().cpu().clamp_min(0).minimum(limits)
    scores, labels = found.scores.float().cpu(), found.labels.cpu()
    boxes = {}
    for k, name in enumerate(names):
        own, sure = edges[labels == k], scores[labels == k]
        kept = nms(own, sure, MAX_OVERLAP)
        boxes[name] = [_box(edge.tolist(), float(score)) for edge, score in zip(own[kept], sure[kept], strict=True)]
    return boxes


def _box(edges: list[float], score: float) -> Box:
    left, top, right, bottom = edges
    return Box(left, top, right, bottom, score)


def _phrases(tokens: Tensor, tokenizer: Any) -> Tensor:
    """The number of the phrase that each token belongs to; -1 for full stops, special tokens and padding."""
    stop = tokenizer.convert_tokens_to_ids(".")
    special = set(tokenizer.all_special_ids)
    numbers, phrase = [], 0
    for token in tokens.tolist():
        numbers.append(-1 if token == stop or token in special else phrase)
        phrase += token == stop
    return torch.tensor(numbers, device=tokens.device)


@lru_cache(maxsize=1)
def _loaded(source: str) -> Detector:
    model = load_model("AutoModelForZeroShotObjectDetection", source, "the detector", dtype=torch.float32)
    return Detector(model, load_processor("AutoProcessor", source, "the detector"))
