"""The arguments of a scorer of images and prompts, checked: the two cannot be taken for each other."""

from collections.abc import Sequence

from torch import Tensor

from pixeval.errors import InputError
from pixeval.images import check_images


def check_pairs(metric: str, images: Tensor, prompts: Sequence[str] | None) -> list[str]:
    """The prompts as a list, one for each of the N x 3 x H x W images in [0, 1].

    Raises:
        InputError: the arguments are of other kinds (swapped, say), the images break the convention, or there are
            more or fewer prompts than images.
    """
    order = f"{metric} takes (images, prompts)"
    if not isinstance(images, Tensor):
        raise InputError(f"{order}: images come first, as a tensor N x 3 x H x W; got {type(images).__name__}")
    if prompts is None:
        raise InputError(f"{order}: it compares each image with its prompt and got no prompts")
    if isinstance(prompts, str | Tensor) or not all(isinstance(prompt, str) for prompt in prompts):
        raise InputError(f"{order}: prompts come second, as a list of one text per image; got {_kind(prompts)}")
    if len(prompts) != len(images):
        raise InputError(f"{metric} needs one prompt per image; got {len(prompts)} prompts for {len(images)} images")
    check_images(images)
    return list(prompts)


def _kind(prompts: object) -> str:
    if isinstance(prompts, str):
        return "one string"
    return "a tensor" if isinstance(prompts, Tensor) else "something else than texts"
