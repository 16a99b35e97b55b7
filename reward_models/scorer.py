"""A trained reward model as a metric of the catalogue and a reward of the trainers: ``--weights reward=FOLDER``.

``FOLDER#flaws`` is the head of one question (flaws, appeal, alignment) in the place of the overall one.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from pixeval.encoders import ClipEncoder
from pixeval.errors import unknown_name
from pixeval.metrics.arguments import check_pairs
from reward_models.model import OVERALL, Opinion, RewardModel

CAUTIOUS = 1.0
"""Standard deviations of the ensemble that the conservative reward subtracts."""


class Reward:
    """The mean reward of the ensemble on one question, in log odds. Higher is better, 0 is the training images' mean.

    Only differences between images of one prompt mean something. Differentiable to the pixels.

    Args:
        source: folder that 'pixeval reward train' wrote, or ``FOLDER#QUESTION``.

    Raises:
        InputError: as :meth:`reward_models.model.RewardModel.load`; or it was not trained on this question.
    """

    def __init__(self, source: str) -> None:
        folder, self.question = addressed(source)
        told = Path(folder) / "reward.json"
        self.model = _loaded(folder, told.stat().st_mtime_ns if told.exists() else 0)
        if self.question not in self.model.questions:
            raise unknown_name(f"question of {folder}:", self.question, self.model.questions)
        self.fingerprint = f"{type(self).__name__}/{self.question}/{self.model.fingerprint}"

    @property
    def shared_encoder(self) -> ClipEncoder | None:
        """The encoder whose features :meth:`from_image_features` takes; None where it has been tuned."""
        tuned = self.model.design.lora is not None
        return self.model.encoder if isinstance(self.model.encoder, ClipEncoder) and not tuned else None

    def __call__(self, images: Tensor, prompts: Sequence[str] | None = None) -> Tensor:
        """(N,) float32 for N x 3 x H x W images in [0, 1] and their prompts.

        Raises:
            InputError: see :func:`pixeval.metrics.arguments.check_pairs`.
        """
        return self.value(self.opinion(images, check_pairs("reward", images, prompts)))

    def from_image_features(self, features: Tensor, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """As calling, with the features of the whole images by :attr:`shared_encoder`."""
        return self.value(self.opinion(images, check_pairs("reward", images, prompts), features))

    def value(self, opinion: Opinion) -> Tensor:
        """What is reported of the ensemble's opinion."""
        return opinion.mean

    def to(self, device: str) -> "Reward":
        """Move the weights; returns itself."""
        self.model.to(device)
        return self

    def opinion(self, images: Tensor, prompts: Sequence[str], whole: Tensor | None = None) -> Opinion:
        """What the ensemble says; ``whole`` are the features of the whole images where they are there already."""
        views = self.model.image_features(images, whole)
        return self.model.opinion_of(self.model.joined(views, self.model.text_features(prompts)), self.question)


class ConservativeReward(Reward):
    """The mean less one standard deviation of the ensemble: what is unlike the training images gains nothing."""

    def value(self, opinion: Opinion) -> Tensor:
        return opinion.conservative(CAUTIOUS)


class HeldOutReward(Reward):
    """A second reward model that nothing is trained against: when the first rises and this one falls, it is hacked."""


def addressed(source: str) -> tuple[str, str]:
    """The folder and the question of ``FOLDER#QUESTION``, or of ``FOLDER``, which may have a # in its own name."""
    folder, mark, question = source.rpartition("#")
    return (folder, question) if mark and not Path(source).is_dir() else (source, OVERALL)


@lru_cache(maxsize=2)
def _loaded(source: str, written: int) -> RewardModel:
    """Loaded once for all metrics of one folder, and again when it was ``written`` at another time."""
    return RewardModel.load(source)
