"""Image to image in one step with a text-to-image model: restoration and dense prediction, after Lotus.

Lotus (He et al., arXiv 2409.18124, its deterministic form) changes three things, which are all here:

- the model is asked once, at the noisiest time t = T, and is given the latent of the input image in the place of noise;
- its output is read as the clean latent of the result (x0), whatever it predicted before;
- the **detail preserver**: in a second task, told apart by a switch, the model reconstructs its input, which keeps the
  fine detail that the first task would let it forget. The losses of both tasks are added.

The switch is the prompt, '' for the task and 'input' for the reconstruction, and not a class embedding as in Lotus:
that way every family has it, and a checkpoint keeps the architecture that stock diffusers loads.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pixeval.errors import InputError
from pixeval.images import UnreadableImage, list_images, read_image
from pixeval.metrics.filters import gaussian
from pixeval.runs import Run
from trainers.data_order import batch_rows
from trainers.decoder_window import Window
from trainers.encoding import Texts, encode_images, encode_texts
from trainers.errors import Answer, Kind, Objective
from trainers.flaw_maps import FlawMaps
from trainers.framing import Size, fit_image
from trainers.image_sets import Skipped, read_captioned
from trainers.latent_diffusion import LatentDiffusion
from trainers.latents import Posterior
from trainers.loop import OnCheckpoint, train
from trainers.losses import mean_square
from trainers.objective import Composition, ObjectiveConfig, PixelConfig
from trainers.optimizer_step import Loss, Terms
from trainers.start import start
from trainers.tables import DatasetConfig

TRAINER = "image-to-image"
TASK, RECONSTRUCTION = "", "input"
"""The prompts of the two tasks; the first is the empty one, as in Lotus."""


@dataclass(frozen=True)
class ImageToImageConfig(ObjectiveConfig):
    """One-step image to image. Data: folders input/ and target/ with files of the same names; or, with blur, any
    images with captions (the captions are not used)."""

    objective: Objective = "latent"
    """latent: squared error of the clean latent, as Lotus; pixel: of its decoded image (E2E-FT, arXiv 2409.11355);
    both: the weighted sum."""
    blur: float | None = None
    """Make the inputs by a Gaussian blur of this many pixels' deviation from the images, which are the targets."""
    detail_preserver: bool = True
    """Train the reconstruction of the input beside the task."""


@dataclass(frozen=True)
class TranslatedLatents:
    """What is read, on the CPU; N pairs of images."""

    source: Posterior
    good: Posterior
    """Of the targets."""
    texts: Texts
    prompt: Tensor
    skipped: tuple[Skipped, ...] = ()

    @property
    def buckets(self) -> Tensor:
        """All images are of one size."""
        return torch.zeros_like(self.prompt)

    def __len__(self) -> int:
        return len(self.prompt)


def train_image_to_image(config: ImageToImageConfig, on_checkpoint: OnCheckpoint | None = None) -> Run:
    """Train, or continue; returns the run, with its checkpoints in ``checkpoints/``. Use one with :func:`translate`.

    Raises:
        InputError: unusable model, data, settings or disk.
        FloatingPointError: the loss is no longer finite.
    """
    check_image_to_image(config)

    def read(
        model: LatentDiffusion, data: Path, size: Size, flaws: FlawMaps | None, dataset: DatasetConfig
    ) -> TranslatedLatents:
        return translated_latents(model, data, size, config.blur)

    begun = start(config, TRAINER, read)
    if begun.model.prediction != "flow_prediction":
        # What the output now is. A flow's scheduler has no word for it and keeps its times, which its family relies on.
        begun.model.pipeline.scheduler.register_to_config(prediction_type="sample")
    loss = image_to_image_loss(begun.model, begun.data, config, begun.composition)
    weight = begun.composition.weight
    train(begun.model, loss, begun.config, begun.run, begun.accelerator, on_checkpoint, weight, begun.describe)
    return begun.run


def check_image_to_image(config: ImageToImageConfig) -> None:
    """Refuse settings that mean nothing here.

    Raises:
        InputError: naming the setting.
    """
    if config.objective == "control":
        raise InputError("objective control compares noisy latents, of which there are none here; use latent or both")
    if config.flaws.wanted or config.reward.metric is not None or config.evaluate is not None:
        raise InputError("flaws, reward and evaluate are for text-to-image training; leave them out")
    if config.probe_every is not None or config.keep_best is not None:
        raise InputError("probe_every and keep_best are for text-to-image training; leave them out")
    if config.dataset != DatasetConfig():
        raise InputError("dataset is for text-to-image training; image-to-image reads folders of images")
    for name in ("argument", "band"):
        if getattr(config.pixel, name) != getattr(PixelConfig(), name):
            raise InputError(f"pixel.{name} is about noisy latents, of which there are none here; leave it out")
    if config.blur is not None and not config.blur > 0:
        raise InputError(f"blur is a deviation in pixels above 0, got {config.blur}")


@torch.no_grad()
def translate(model: LatentDiffusion, images: Tensor, prompt: str = TASK) -> Tensor:
    """What a trained model makes of images, N x 3 x H x W in [-1, 1] -> the same shape, in one pass, not clamped.

    Args:
        model: trained by :func:`train_image_to_image`; its checkpoints are loaded by ``trainers.families.detect.load``.
        images: the inputs.
        prompt: of the task, or :data:`RECONSTRUCTION`.
    """
    z = model.encode(images).mean
    t = model.schedule.at(1.0, len(z)).to(model.device)
    conditioning = {k: v.to(model.device) for k, v in model.encode_prompts([prompt] * len(z)).items()}
    return model.decode(model.predict(z, t, conditioning, model.denoiser).float())


def image_to_image_loss(
    model: LatentDiffusion, data: TranslatedLatents, config: ImageToImageConfig, composition: Composition
) -> Loss:
    """The task and, with the detail preserver, the reconstruction, as the loop calls it."""
    tasks = 2 if config.detail_preserver else 1

    def loss(denoiser: nn.Module, batch: int, generator: torch.Generator) -> Terms:
        rows = batch_rows(len(data), config.batch_size, config.seed, batch)
        n, shape = len(rows), data.source.mean[rows].shape
        source, target = (
            side.rows(rows).sample(torch.randn(shape, generator=generator)).to(model.device)
            for side in (data.source, data.good)
        )
        prompts = torch.arange(tasks).repeat_interleave(n)
        t = model.schedule.at(1.0, tasks * n).to(model.device)
        given = source.repeat(tasks, 1, 1, 1)
        output = model.predict(given, t, data.texts.rows(prompts, model.device), denoiser).float()
        window = composition.window(n, shape[-2:], generator)
        window = None if window is None else window.repeat(tasks)
        wanted = torch.cat([target, source])[: tasks * n]
        found = _errors(model, output, wanted, composition, composition.kinds_at(batch), window)
        # a sum over the tasks and a mean over the images, as in Lotus
        sums = [error.mean() * tasks for error in found.values()]
        terms = composition.total(sums, Answer(output, output, output))
        for kind, error in found.items():
            parts = error.chunk(tasks)
            terms[f"{kind}_error"] = parts[0].mean()
            if tasks == 2:
                terms[f"{kind}_reconstruction_error"] = parts[1].mean()
        return terms

    return loss


def _errors(
    model: LatentDiffusion,
    x0_hat: Tensor,
    z: Tensor,
    composition: Composition,
    kinds: tuple[Kind, ...],
    window: Window | None,
) -> dict[Kind, Tensor]:
    found: dict[Kind, Tensor] = {}
    if "latent" in kinds:
        found["latent"] = mean_square(x0_hat - z)
    if "pixel" in kinds:
        cut = (lambda latents: latents) if window is None else window.cut
        with torch.no_grad():
            wanted = composition.pixel.view(model, cut(z))
        weight = None if window is None else window.weight(model.pipeline.vae_scale_factor)
        weight = None if weight is None else weight.to(z.device)
        found["pixel"] = composition.pixel.compare(composition.pixel.view(model, cut(x0_hat)), wanted, weight)
    return found


def translated_latents(
    model: LatentDiffusion, source: Path, resolution: tuple[int, int], blur: float | None
) -> TranslatedLatents:
    """Encode pairs of images.

    Raises:
        InputError: the source is missing or not understood, holds no pair, or the prompts of the tasks look the same
            to the text encoder.
    """
    skipped: list[Skipped] = []

    def images() -> Iterator[Tensor]:
        pairs = _blurred(source, resolution, blur, skipped) if blur else _paired(source, resolution, skipped)
        for given, wanted in pairs:
            yield given
            yield wanted

    posterior = encode_images(model, images())
    if posterior is None:
        raise InputError(f"{source} holds no images that can be used; give folders input/ and target/, or blur")
    texts, _ = encode_texts(model, [RECONSTRUCTION])
    told = texts.rows(torch.tensor([0, 1]), torch.device("cpu"))
    if all(torch.equal(value[0], value[1]) for value in told.values()):
        raise InputError(
            f"the text encoder does not tell {RECONSTRUCTION!r} from no prompt; use detail_preserver=False"
        )
    given, wanted = (Posterior(posterior.mean[i::2], posterior.std[i::2]) for i in (0, 1))
    return TranslatedLatents(given, wanted, texts, torch.zeros(len(given.mean), dtype=torch.int64), tuple(skipped))


def blurred(images: Tensor, deviation: float) -> Tensor:
    """N x 3 x H x W, blurred by a Gaussian of this many pixels."""
    n, c, height, width = images.shape
    return gaussian(images.reshape(n * c, 1, height, width), deviation).reshape(images.shape)


def _blurred(
    source: Path, resolution: tuple[int, int], deviation: float, skipped: list[Skipped]
) -> Iterator[tuple[Tensor, Tensor]]:
    for entry in read_captioned(source):
        if isinstance(entry.image, str):
            skipped.append(Skipped(entry.name, entry.image))
            continue
        image = fit_image(entry.image, resolution)
        yield blurred(image[None], deviation)[0], image


def _paired(source: Path, resolution: tuple[int, int], skipped: list[Skipped]) -> Iterator[tuple[Tensor, Tensor]]:
    given, wanted = source / "input", source / "target"
    for folder in (given, wanted):
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder; give input/ and target/ with files of the same names, or blur")
    names = [path.relative_to(given).as_posix() for path in list_images(given)]
    missing = [name for name in names if not (wanted / name).is_file()]
    if missing:
        raise InputError(f"{wanted} lacks {missing[0]}, which {given} has; every input needs its target")
    for name in names:
        try:
            images = [fit_image(read_image(folder / name), resolution) for folder in (given, wanted)]
        except UnreadableImage as error:
            skipped.append(Skipped(name, str(error)))
            continue
        yield images[0], images[1]
