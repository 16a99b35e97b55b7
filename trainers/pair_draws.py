"""What is random about a batch of pairs, and the errors of DPO's reference on draws that are fixed for every pair.

With ``n`` draws per pair (noise of the posteriors, noise, time, decoded window), the reference model answers each of
them once, before training, and is not needed any more: neither its memory nor its passes. The loss of a draw is exactly
that of an uncached reference. What changes is that training sees ``n`` noises per pair instead of new ones for ever.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from pixeval.errors import InputError
from trainers.data_order import seeded
from trainers.decoder_window import Window
from trainers.errors import Kind
from trainers.latent_diffusion import LatentDiffusion
from trainers.objective import Composition

REFERENCE_FILE = "reference_errors.safetensors"


class PairDraws(NamedTuple):
    """Everything random about n pairs, on the CPU; winner and loser share all but the noise of their posteriors."""

    winner: Tensor
    """Of the posterior, n x C x h x w."""
    loser: Tensor
    eps: Tensor
    t: Tensor
    window: Window | None


def draw_pairs(
    model: LatentDiffusion, composition: Composition, shape: Sequence[int], generator: torch.Generator
) -> PairDraws:
    """New draws for latents of ``shape``, n x C x h x w."""
    winner, loser, eps = (torch.randn(tuple(shape), generator=generator) for _ in range(3))
    t = model.sample_timesteps(shape[0], generator, (shape[-2], shape[-1]))
    return PairDraws(winner, loser, eps, t, composition.window(shape[0], tuple(shape[-2:]), generator))


def draws_of_pairs(
    model: LatentDiffusion,
    composition: Composition,
    shape: Sequence[int],
    seed: int,
    pairs: Sequence[int],
    numbers: Sequence[int],
) -> PairDraws:
    """The fixed draws with these numbers of these pairs; a function of the seed, the pair and the number alone."""
    rows = [
        draw_pairs(model, composition, (1, *shape[1:]), seeded(seed, "pair", pair, number))
        for pair, number in zip(pairs, numbers, strict=True)
    ]
    windows = [row.window for row in rows if row.window is not None]
    window = replace(windows[0], corner=torch.cat([w.corner for w in windows])) if windows else None
    columns = zip(*((row.winner, row.loser, row.eps, row.t) for row in rows), strict=True)
    winner, loser, eps, t = (torch.cat(column) for column in columns)
    return PairDraws(winner, loser, eps, t, window)


@dataclass(frozen=True)
class ReferenceErrors:
    """Errors of the reference by kind, float32 (pairs, draws, 2): winner, loser."""

    errors: dict[Kind, Tensor]

    def of(self, pairs: Tensor, numbers: Tensor, kinds: Sequence[Kind], device: torch.device) -> dict[Kind, Tensor]:
        """Those of a batch of n pairs, winners and then losers, (2n,)."""
        return {kind: self.errors[kind][pairs, numbers].T.reshape(-1).to(device) for kind in kinds}


def reference_errors(
    file: Path,
    pairs: int,
    draws: int,
    batch_size: int,
    kinds: Sequence[Kind],
    measure: Callable[[Tensor, Tensor], dict[Kind, Tensor]],
    digest: str,
) -> ReferenceErrors:
    """Measure the reference on every draw of every pair, or read what an earlier start of the run wrote.

    Args:
        file: where the errors are kept.
        pairs: how many there are.
        draws: of each.
        batch_size: pairs measured together, as in training, so that the numbers are those of training.
        kinds: the errors.
        measure: (pairs, numbers of draws) -> errors by kind, winners and then losers, (2n,).
        digest: of the pairs (:class:`trainers.sources.Sources`), which is kept with the errors.

    Raises:
        InputError: the file is damaged or belongs to other data.
    """
    if not file.exists():
        every = torch.arange(pairs * draws)
        parts = [
            {kind: error.reshape(2, -1).T.cpu() for kind, error in measure(rows // draws, rows % draws).items()}
            for rows in tqdm(torch.split(every, batch_size), desc="reference", unit="batch")
        ]
        table = {kind: torch.cat([part[kind] for part in parts]).reshape(pairs, draws, 2) for kind in kinds}
        partial = file.with_name(file.name + ".partial")
        save_file({kind: value.float().contiguous() for kind, value in table.items()}, partial, {"pairs": digest})
        partial.replace(file)
    try:
        with safe_open(file, "pt") as opened:
            found = {kind: opened.get_tensor(kind) for kind in opened.keys()}  # noqa: SIM118
            of = (opened.metadata() or {}).get("pairs")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file} is damaged ({error}); delete it, and it is made again") from error
    if of != digest or any(kind not in found or found[kind].shape != (pairs, draws, 2) for kind in kinds):
        raise InputError(f"{file} is of other pairs than the data has now; delete it, and it is made again")
    return ReferenceErrors({kind: found[kind] for kind in kinds})
