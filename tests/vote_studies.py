"""Simulated side-by-side studies whose truth is known: votes clustered in prompts and in annotators."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pixeval.stats.vote_table import VoteTable

Array = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Study:
    """How votes on ``a`` against ``b`` come about, by Davidson's model on the logit scale."""

    prompts: int
    votes: int
    """On each prompt, by different annotators."""
    annotators: int
    lead: float = 0.0
    """Of ``a``, in log odds."""
    prompt_sd: float = 1.0
    annotator_sd: float = 0.4
    tie: float | None = None
    """Davidson's tie parameter; None for no ties."""
    side_sd: float = 0.0
    """How far annotators favour one side."""

    def truth(self) -> float:
        """The net win rate over all prompts and annotators."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(80)
        logit = self.lead + nodes * np.hypot(self.prompt_sd, self.annotator_sd)
        return float(weights @ net(self.shares(logit)) / weights.sum())

    def shares(self, logit: Array) -> Array:
        """Chances of win, tie and loss."""
        tie = np.zeros_like(logit) if self.tie is None else np.full_like(logit, np.exp(self.tie))
        odds = np.stack([np.exp(logit / 2), tie, np.exp(-logit / 2)], -1)
        shares: Array = odds / odds.sum(-1, keepdims=True)
        return shares

    def draw(self, rng: np.random.Generator) -> tuple[Array, Codes, Codes]:
        """Votes (+1, 0, -1 for ``a``), their prompts and annotators."""
        table = self.table(rng)
        return table.signs("a"), table.prompt, table.annotator

    def table(self, rng: np.random.Generator) -> VoteTable:
        """The votes with a random side for each."""
        prompt = np.repeat(np.arange(self.prompts), self.votes)
        seats = rng.random((self.prompts, self.annotators))
        annotator = np.argpartition(seats, self.votes - 1, axis=1)[:, : self.votes].ravel()
        n = len(prompt)
        a_left = rng.random(n) < 0.5
        logit = self.lead + rng.normal(0, self.prompt_sd, self.prompts)[prompt]
        logit = logit + rng.normal(0, self.annotator_sd, self.annotators)[annotator]
        logit = np.where(a_left, logit, -logit) + rng.normal(0, self.side_sd, self.annotators)[annotator]
        choice = (rng.random(n)[:, None] > self.shares(logit).cumsum(1)[:, :2]).sum(1)
        return votes_of(prompt, annotator, np.where(a_left, 0, 1), np.where(a_left, 1, 0), choice, ("a", "b"))


def net(shares: Array) -> Array:
    """Win less loss."""
    difference: Array = shares[..., 0] - shares[..., 2]
    return difference


def votes_of(
    prompt: Codes,
    annotator: Codes,
    left: Codes,
    right: Codes,
    choice: Codes,
    labels: tuple[str, ...],
    propensity: Array | None = None,
) -> VoteTable:
    """Votes on the first question; labels must be sorted, and choices are 0 left, 1 tie, 2 right."""
    n, m, prompts = len(prompt), len(labels), int(prompt.max()) + 1
    return VoteTable(
        labels=labels,
        prompts=tuple(f"p{i}" for i in range(prompts)),
        annotators=tuple(f"ann{i}" for i in range(int(annotator.max()) + 1)),
        images=tuple(f"p{i}-{label}" for i in range(prompts) for label in labels),
        prompt=prompt.astype(np.int32),
        annotator=annotator.astype(np.int32),
        question=np.zeros(n, np.int32),
        left_label=left.astype(np.int32),
        right_label=right.astype(np.int32),
        left=(prompt * m + left).astype(np.int32),
        right=(prompt * m + right).astype(np.int32),
        choice=choice.astype(np.int32),
        propensity=np.ones(n) if propensity is None else propensity,
        simulated=np.ones(n, np.bool_),
    )


def tournament(
    rng: np.random.Generator,
    strengths: Array,
    prompts: int,
    votes: int,
    annotators: int,
    side: float,
    tie: float | None,
) -> VoteTable:
    """Votes on pairs of several models, ``votes`` on each prompt, with noise of prompts and models together."""
    m, n = len(strengths), prompts * votes
    prompt, annotator = np.repeat(np.arange(prompts), votes), rng.integers(0, annotators, n)
    left = rng.integers(0, m, n)
    right = (left + rng.integers(1, m, n)) % m
    quality = strengths + rng.normal(0, 0.5, (prompts, m))
    logit = quality[prompt, left] - quality[prompt, right] + side
    choice = (rng.random(n)[:, None] > Study(1, 1, 1, tie=tie).shares(logit).cumsum(1)[:, :2]).sum(1)
    return votes_of(prompt, annotator, left, right, choice, tuple(f"m{i}" for i in range(m)))
