"""Looks at held-out data with fixed noise at fixed times, which say what a training loss with random ones hides."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from pixeval.errors import InputError
from pixeval.metrics.spectrum import radius
from trainers.balance import log_ratio
from trainers.data_order import seeded
from trainers.decoder_window import Window
from trainers.encoding import Latents, Texts
from trainers.errors import Answer, Kind, Noised, PixelTerm, add_noise, answer_of, ask
from trainers.latent_cache import LatentRows
from trainers.latent_diffusion import LatentDiffusion
from trainers.latents import Posterior
from trainers.losses import latent_sft, mean_square, renoised
from trainers.objective import Composition
from trainers.training_log import Line

WHOLE = ("texts", "skipped")
"""Fields of data that are not by row."""
FRACTIONS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Times, as shares of the way from clean to noise."""
BANDS = {"coarse": (0.0, 1 / 16), "medium": (1 / 16, 1 / 8), "fine": (1 / 8, 1 / 4), "finest": (1 / 4, 1.0)}
"""Radial frequencies in cycles per pixel, the upper end left out; together all that there are."""

Data = TypeVar("Data")


class Judged(NamedTuple):
    """What the objective says of an answer."""

    terms: Sequence[Tensor]
    """One or two scalars, as they enter the loss, unweighted."""
    logged: dict[str, Tensor]
    """Further values of each sample (pair), (n,)."""


Judge = Callable[[Answer, Noised, int], Judged]
"""(answer, what was asked, number of the pass) -> terms, with gradients, and values."""


class Chunk(NamedTuple):
    """Rows of one size that are looked at together, every side of them after the other, on the CPU."""

    z: Tensor
    eps: Tensor
    prompt: Tensor
    window: Window | None
    """Where training decodes windows: one for each row, the same at every look."""


class HeldOut:
    """The look at held-out samples or pairs.

    A call gives a line for ``probes.jsonl``. All errors are lower-is-better means over rows and :data:`FRACTIONS`:

    - ``latent_error``: (1), and ``latent_error_t10`` and so on at each time;
    - ``pixel_error``: (2) with the squared distance on whole images, whatever is trained on, and its parts by radial
      frequency, ``pixel_error_coarse`` to ``pixel_error_finest``, which add up to it (Parseval);
    - for pairs, all of these for ``winner`` and ``loser`` (``latent_winner_error``), and what the judge logs, such as
      ``latent_accuracy``;
    - ``gradient_ratio``: norm of the weighted second term's gradient over the first term's, at the denoiser's output,
      the geometric mean over passes;
    - ``rows``: the errors of each row, for paired comparisons.

    Args:
        model: whose VAE decodes.
        sides: latents by name: ``{"": ...}`` for samples, ``{"winner": ..., "loser": ...}`` for pairs; the sides of a
            row share noise and prompt.
        prompt: (n,), rows in ``texts``.
        buckets: (n,), rows of one number are of one size.
        texts: the prompts.
        composition: of the loss.
        seed: of the noise.
        batch_size: rows in one pass.
    """

    def __init__(
        self,
        model: LatentDiffusion,
        sides: Mapping[str, Latents],
        prompt: Tensor,
        buckets: Tensor,
        texts: Texts,
        composition: Composition,
        seed: int,
        batch_size: int,
    ) -> None:
        self.model, self.sides, self.texts, self.composition = model, tuple(sides), texts, composition
        self.chunks: list[Chunk] = []
        for bucket in sorted(set(buckets.tolist())):
            for rows in (buckets == bucket).nonzero().flatten().split(batch_size):
                posteriors = {name: latents.rows(rows) for name, latents in sides.items()}
                drawn = {name: _drawn(side.mean.shape, seed, name, rows) for name, side in posteriors.items()}
                z = torch.cat([side.sample(drawn[name]) for name, side in posteriors.items()])
                eps = _drawn((len(rows), *z.shape[1:]), seed, "noise", rows)
                repeats = (len(sides), *(1,) * (z.dim() - 1))
                window = composition.window(len(rows), z.shape[2:], seeded(seed, "held-out", "window", int(rows[0])))
                window = None if window is None else window.repeat(len(sides))
                self.chunks.append(Chunk(z, eps.repeat(repeats), prompt[rows].repeat(len(sides)), window))

    @property
    def passes(self) -> range:
        """Numbers of the passes of one look: every chunk at every time."""
        return range(len(FRACTIONS) * len(self.chunks))

    def noised(self, number: int, kinds: tuple[Kind, ...], pixel: PixelTerm) -> Noised:
        """What is asked in a pass, always the same; decoded within a fixed window where training has windows."""
        index, place = divmod(number, len(self.chunks))
        chunk, device = self.chunks[place], self.model.device
        t = self.model.schedule.at(FRACTIONS[index], len(chunk.z)).to(device)
        conditioning = self.texts.rows(chunk.prompt, device)
        z, eps = chunk.z.to(device), chunk.eps.to(device)
        return add_noise(self.model, z, eps, t, conditioning, kinds, pixel, window=chunk.window)

    def look(self, denoiser: nn.Module, judge: Judge) -> Line:
        """The line for what ``denoiser`` predicts; it keeps its mode, and no gradient is left."""
        was_training = denoiser.training
        denoiser.eval()
        found: dict[str, list[Tensor]] = {}
        ratios: list[float] = []
        try:
            for number in self.passes:
                values, ratio = self._pass(denoiser, judge, number)
                for name, value in values.items():
                    found.setdefault(name, []).append(value.detach().float().cpu())
                ratios += [] if ratio is None else [ratio]
        finally:
            denoiser.train(was_training)
        return self._line({name: torch.cat(values).view(len(FRACTIONS), -1) for name, values in found.items()}, ratios)

    def _line(self, found: Mapping[str, Tensor], ratios: Sequence[float]) -> Line:
        """Tables of times x rows -> the line."""
        line: Line = {name: float(table.mean()) for name, table in found.items()}
        errors = [name for name in found if name.endswith("error")]
        for name in errors:
            for fraction, values in zip(FRACTIONS, found[name], strict=True):
                line[f"{name}_t{round(100 * fraction)}"] = float(values.mean())
        if ratios:
            line["gradient_ratio"] = float(torch.tensor(ratios).mean().exp()) * self.composition.weight.value
        return line | {"rows": {name: found[name].mean(0).tolist() for name in errors}}

    def _pass(self, denoiser: nn.Module, judge: Judge, number: int) -> tuple[dict[str, Tensor], float | None]:
        """Values of each row, (n,), and the logarithm of the ratio of gradients."""
        with torch.no_grad():
            kinds, model = self.composition.kinds, self.model
            noised = self.noised(number, kinds, self.composition.pixel)
            answer = ask(model, denoiser, noised)
            values = self._errors(answer, noised)
        two = len(kinds) > 1
        output = answer.output.detach().requires_grad_(two)
        with torch.set_grad_enabled(two):
            judged = judge(answer_of(model, output, noised), noised, number)
            ratio = log_ratio(judged.terms[0], judged.terms[1], output) if two else None
        return values | judged.logged, None if ratio is None else -ratio

    def _errors(self, answer: Answer, noised: Noised) -> dict[str, Tensor]:
        argument = renoised(noised.z_t, noised.s, answer.eps, noised.eps)
        # One by one: whole images, where training may decode windows because it has no memory for more.
        both = zip(argument.unsqueeze(1), noised.z_t.unsqueeze(1), strict=True)
        difference = torch.cat([self.model.decode(found) - self.model.decode(wanted) for found, wanted in both])
        named = {"latent_{}error": latent_sft(answer.eps, noised.eps), "pixel_{}error": mean_square(difference)}
        named |= {f"pixel_{{}}error_{band}": value for band, value in band_errors(difference).items()}
        split = {name: value.chunk(len(self.sides)) for name, value in named.items()}
        return {
            name.format(f"{side}_" if side else ""): split[name][i]
            for i, side in enumerate(self.sides)
            for name in named
        }


def band_errors(difference: Tensor) -> dict[str, Tensor]:
    """Mean squares by radial frequency of N x 3 x H x W differences, each (N,); their sum is the mean square."""
    power = torch.fft.fft2(difference, norm="ortho").abs().square().mean(1)
    distance = radius(difference.shape[-2], difference.shape[-1], difference)
    masks = {name: (distance >= low) & (distance < high) for name, (low, high) in BANDS.items()}
    return {name: (power * mask).sum((-2, -1)) / distance.numel() for name, mask in masks.items()}


def hold_out(data: Data, rows: int, seed: int) -> tuple[Data, Data]:
    """What is left of the data, and ``rows`` drawn from it.

    Raises:
        InputError: there is nothing left.
    """
    n = len(data)  # type: ignore[arg-type]
    if n <= rows:
        raise InputError(
            f"the data has {n} rows, of which probe_rows={rows} cannot be held out; give fewer, or probe_data"
        )
    order = torch.randperm(n, generator=seeded(seed, "held-out rows"))
    return subset(data, order[rows:].sort().values), subset(data, order[:rows].sort().values)


def subset(data: Data, rows: Tensor) -> Data:
    """The same kind of data with these rows: of all latents, and of every tensor and map with one entry per row."""
    n = len(data)  # type: ignore[arg-type]
    held = {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}  # type: ignore[arg-type]
    changes = {name: _rows_of(value, rows, n) for name, value in held.items() if name not in WHOLE}
    return dataclasses.replace(data, **changes)  # type: ignore[type-var]


def _rows_of(value: Any, rows: Tensor, n: int) -> Any:
    if isinstance(value, Posterior):
        return value.rows(rows)
    if isinstance(value, LatentRows):
        return LatentRows([value.items[i] for i in rows.tolist()])
    if isinstance(value, Tensor):
        return value[rows]
    if isinstance(value, tuple) and len(value) == n and isinstance(value[0], Tensor):
        return tuple(value[i] for i in rows.tolist())
    if isinstance(value, tuple):  # of latents: winners and losers
        return tuple(_rows_of(one, rows, n) for one in value)
    return value


def _drawn(shape: Sequence[int], seed: int, what: str, rows: Tensor) -> Tensor:
    """Normal draws of ``shape``, a function of seed, name and row."""
    draws = [torch.randn(tuple(shape[1:]), generator=seeded(seed, "held-out", what, row)) for row in rows.tolist()]
    return torch.stack(draws)
