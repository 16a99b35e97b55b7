"""Strengths of more than two models from pairwise votes: Davidson's model with ties and a bias to one side.

For a pair shown left and right with strengths l and r, side bias b and tie parameter t, the answers left, right and
tie have probabilities proportional to exp((l - r + b) / 2), exp((r - l - b) / 2) and exp(t) (Davidson 1970; the order
effect of Davidson and Beaver 1977). Without ties it is Bradley and Terry's (1952) model. "Both bad" counts as a tie.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from pixeval.errors import InputError
from pixeval.records import QUESTIONS, Question, Vote
from pixeval.stats.bootstrap import multiplicities
from pixeval.stats.clusters import Array, Codes, cells_of
from pixeval.stats.vote_table import LEFT, RIGHT, VoteTable

DRAWS = 1000
STEPS = 60
DRAWN_AT_ONCE = 2_000_000
MOST_STEP = 4.0
"""Longest step of a parameter: keeps the first ones from overflowing."""


class NoRanking(InputError):
    """The votes leave some strengths undefined; ``str(error)`` says which and what to do."""


@dataclass(frozen=True)
class Model:
    """The cells of the model: what can be answered to which pair on which sides."""

    sides: NDArray[np.int64]
    """Pairs that were shown, pairs x 2: labels on the left and on the right."""
    design: Array
    """Pairs x 3 answers (left, tie, right) x parameters: strengths, then side bias, then ties where there are any."""
    labels: tuple[str, ...]
    ties: bool

    @property
    def size(self) -> int:
        """Number of parameters."""
        return int(self.design.shape[2])


@dataclass(frozen=True)
class Fit:
    """Estimates with what intervals are made from."""

    model: Model
    parameters: Array
    """Strengths (log odds; their mean is 0), side bias, tie parameter."""
    covariance: Array
    """Two-way cluster-robust (sandwich) covariance of the parameters, over prompts and annotators."""
    by_prompt: Array
    """The same over prompts alone; no variance is taken to be below this one."""
    bootstrap: Array
    """Draws x parameters: fits to votes of prompts drawn with replacement."""
    df: float
    """Degrees of freedom for Student's t: the smaller number of groups less one."""
    n: int
    prompts: int
    annotators: int
    counts: Array
    """Weighted votes in each cell, pairs x 3."""

    @property
    def strengths(self) -> Array:
        """Of the labels, log odds, mean 0; higher wins more."""
        return self.parameters[: len(self.model.labels)]


def fit_davidson(
    votes: Sequence[Vote] | VoteTable,
    question: Question | None = None,
    labels: Sequence[str] | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> Fit:
    """Maximum likelihood by Newton's method, with sandwich and prompt-cluster bootstrap.

    Args:
        votes: of any number of labels; weighted by inverse propensity where that is below 1.
        question: leave out the others; all votes by default.
        labels: leave out votes on others; all by default.
        seed: of the bootstrap.
        draws: of the bootstrap; 0 for none.

    Raises:
        NoRanking: groups of labels were never compared with each other, or some label always won or lost against the
            rest, so that its strength is infinite.
        InputError: fewer than two labels have an answered vote.
    """
    table, names = _relevant(votes, question, labels)
    model, cell = _cells(table, names)
    _connected(model)
    prompt = np.unique(table.prompt, return_inverse=True)[1]
    weights = np.ones(len(table)) if table.weights is None else table.weights
    cells = 3 * len(model.sides)
    by_prompt = csr_array((weights, (prompt, cell)), shape=(int(prompt.max()) + 1, cells))
    counts: Array = np.asarray(by_prompt.sum(axis=0)).reshape(1, -1, 3)
    _separated(model, counts[0])
    parameters = newton(model, counts, np.zeros((1, model.size)))[0]
    bread = np.linalg.inv(_information(model, parameters[None], counts)[0])
    scores = _cell_scores(model, parameters)
    meat_prompt, n_prompts = _meat(np.asarray(by_prompt @ scores))
    people = np.unique(table.annotator, return_inverse=True)[1]
    meat, groups = meat_prompt, n_prompts
    if people.max() > 0:
        meat_person, n_people = _meat(np.asarray(_sums(weights, people, cell, cells) @ scores))
        both = np.unique(cells_of(prompt, people), return_inverse=True)[1]
        meat = meat_prompt + meat_person - _meat(np.asarray(_sums(weights, both, cell, cells) @ scores))[0]
        groups = min(n_prompts, n_people)
    drawn = _bootstrap(model, by_prompt, parameters, seed, draws)
    return Fit(
        model,
        parameters,
        bread @ meat @ bread,
        bread @ meat_prompt @ bread,
        drawn,
        float(groups - 1),
        len(table),
        n_prompts,
        int(people.max()) + 1,
        counts[0],
    )


def newton(model: Model, counts: Array, start: Array) -> Array:
    """Maximum-likelihood parameters of many tables of counts at once.

    Args:
        model: their cells.
        counts: tables x pairs x 3 answers.
        start: tables x parameters, or 1 x parameters.

    Returns:
        Tables x parameters; strengths of each have mean 0. Where the maximum is at infinity, a point far out.
    """
    parameters = np.broadcast_to(start, (len(counts), model.size)).copy()
    observed = counts.reshape(len(counts), -1) @ model.design.reshape(-1, model.size)
    totals = counts.sum(2)
    value = _log_likelihood(model, parameters, observed, totals)
    for _ in range(STEPS):
        expected, information = _moments(model, parameters, totals)
        step = np.linalg.solve(information, (observed - expected)[..., None])[..., 0]
        step /= np.maximum(1, np.abs(step).max(1) / MOST_STEP)[:, None]
        scale = np.ones(len(counts))
        for _ in range(20):  # the likelihood is concave, so some part of a Newton step raises it
            trial = _log_likelihood(model, parameters + scale[:, None] * step, observed, totals)
            worse = trial < value - 1e-9 * np.abs(value)
            if not worse.any():
                break
            scale[worse] /= 2
        parameters += scale[:, None] * step
        value = _log_likelihood(model, parameters, observed, totals)
        if np.abs(scale[:, None] * step).max() < 1e-9:
            break
    return parameters


def probabilities(model: Model, parameters: Array) -> Array:
    """Of left, tie and right for every pair that was shown: tables x pairs x 3."""
    utility = parameters @ model.design.reshape(-1, model.size).T
    utility = utility.reshape(len(parameters), -1, 3)
    if not model.ties:
        utility[..., 1] = -np.inf
    shares = np.exp(utility - utility.max(2, keepdims=True))
    normed: Array = shares / shares.sum(2, keepdims=True)
    return normed


def _relevant(
    votes: Sequence[Vote] | VoteTable, question: Question | None, labels: Sequence[str] | None
) -> tuple[VoteTable, tuple[str, ...]]:
    table = VoteTable.of(votes)
    wanted = np.array([label in labels if labels is not None else True for label in table.labels], dtype=np.bool_)
    kept = table.answered & (table.left_label != table.right_label)
    if len(table):
        kept = kept & wanted[table.left_label] & wanted[table.right_label]
    if question is not None:
        kept = kept & (table.question == QUESTIONS.index(question))
    table = table.where(kept)
    used = np.unique(np.concatenate([table.left_label, table.right_label]))
    if len(used) < 2:
        raise InputError("a ranking needs answered votes on at least two labels; collect some with 'pixeval label'")
    return table, tuple(table.labels[code] for code in used)


def _cells(table: VoteTable, names: tuple[str, ...]) -> tuple[Model, Codes]:
    """The model and the cell (3 x pair + answer) of each vote."""
    place = np.full(len(table.labels), -1)
    place[[table.label_code(name) for name in names]] = np.arange(len(names))
    m = len(names)
    key = place[table.left_label] * m + place[table.right_label]
    shown, pair = np.unique(key, return_inverse=True)
    answer = np.select([table.choice == LEFT, table.choice == RIGHT], [0, 2], 1)
    sides = np.column_stack([shown // m, shown % m])
    ties = bool((answer == 1).any())
    design = np.zeros((len(shown), 3, m + 1 + ties))
    rows = np.arange(len(shown))
    for answered, sign in ((0, 0.5), (2, -0.5)):
        design[rows, answered, sides[:, 0]] = sign
        design[rows, answered, sides[:, 1]] = -sign
        design[rows, answered, m] = sign
    if ties:
        design[:, 1, m + 1] = 1
    return Model(sides, design, names, ties), 3 * pair + answer


def _connected(model: Model) -> None:
    m = len(model.labels)
    graph = csr_array((np.ones(len(model.sides)), (model.sides[:, 0], model.sides[:, 1])), shape=(m, m))
    groups, member = connected_components(graph, directed=False)
    if groups > 1:
        apart = [[repr(n) for n, g in zip(model.labels, member, strict=True) if g == k] for k in range(groups)]
        named = " with ".join(" and ".join(names) for names in apart)
        raise NoRanking(f"no vote compares {named}; label a pair that links them, or rank them apart")


def _separated(model: Model, counts: Array) -> None:
    """Refuse votes whose likelihood has no maximum: along some direction it rises for ever (Albert and Anderson 1984).

    Such a direction never makes an answer that was given less likely than another one of its pair; whether there is
    one is a linear program.
    """
    gaps = []
    for pair, answer in zip(*np.nonzero(counts > 0), strict=True):
        for other in (0, 1, 2) if model.ties else (0, 2):
            if other != answer:
                gaps.append(model.design[pair, answer] - model.design[pair, other])
    gap = np.unique(np.array(gaps), axis=0)
    if np.linalg.matrix_rank(gap) < model.size - 1:
        raise NoRanking(
            "some models were only ever shown on one side, so their strength cannot be told from a bias to that side; "
            "collect votes with sides swapped"
        )
    m = len(model.labels)
    drift = _drift(gap, fixed=m)  # of the bias and ties alone, then of all
    drift = _drift(gap, fixed=0) if drift is None else drift
    if drift is None:
        return
    drift = drift[:m]
    if np.ptp(drift) > 1e-6:
        top = [n for n, d in zip(model.labels, drift, strict=True) if d > drift.max() - 1e-6]
        low = [n for n, d in zip(model.labels, drift, strict=True) if d < drift.min() + 1e-6]
        raise NoRanking(
            f"{' and '.join(map(repr, top))} never lost against {' and '.join(map(repr, low))} in these votes, so the "
            "distance between them is infinite and no ranking with intervals exists; collect more votes, or report the "
            "win rates of the pairs"
        )
    raise NoRanking(
        "one answer was never given although every pair allows it (always the same side, or only ties), so the bias to "
        "a side is infinite; check how the votes came about"
    )


def _drift(gap: Array, fixed: int) -> Array | None:
    """A direction, 0 in the first ``fixed`` parameters, along which every gap stays or grows and some grows."""
    bounds = [(0, 0)] * fixed + [(-1, 1)] * (gap.shape[1] - fixed)
    found = linprog(-gap.sum(0), A_ub=-gap, b_ub=np.zeros(len(gap)), bounds=bounds, method="highs")
    return None if found.x is None or float((gap @ found.x).sum()) <= 1e-6 else np.asarray(found.x)


def _moments(model: Model, parameters: Array, totals: Array) -> tuple[Array, Array]:
    """Expected sums of the design and the information, which holds the strengths' mean in place."""
    shares = probabilities(model, parameters) * totals[..., None]
    flat = model.design.reshape(-1, model.size)
    expected = shares.reshape(len(parameters), -1) @ flat
    means = np.einsum("dpa,pak->dpk", shares, model.design)
    within = np.einsum("dc,ck,cl->dkl", shares.reshape(len(parameters), -1), flat, flat, optimize=True)
    between = np.einsum("dpk,dpl->dkl", means / np.maximum(totals, 1e-300)[..., None], means, optimize=True)
    information = within - between
    m = len(model.labels)
    scale = np.maximum(totals.sum(1), 1.0)[:, None, None]
    information[:, :m, :m] += scale / m  # strengths are only defined up to a constant
    information += scale * 1e-12 * np.eye(model.size)  # keeps a draw that lost a pair or all ties solvable
    return expected, information


def _information(model: Model, parameters: Array, counts: Array) -> Array:
    return _moments(model, parameters, counts.sum(2))[1]


def _log_likelihood(model: Model, parameters: Array, observed: Array, totals: Array) -> Array:
    utility = (parameters @ model.design.reshape(-1, model.size).T).reshape(len(parameters), -1, 3)
    if not model.ties:
        utility[..., 1] = -np.inf
    top = utility.max(2)
    normaliser = top + np.log(np.exp(utility - top[..., None]).sum(2))
    value: Array = (observed * parameters).sum(1) - (totals * normaliser).sum(1)
    return value


def _cell_scores(model: Model, parameters: Array) -> Array:
    """The gradient of the log likelihood of one vote in each cell: cells x parameters."""
    shares = probabilities(model, parameters[None])[0]
    means = np.einsum("pa,pak->pk", shares, model.design)
    scores: Array = (model.design - means[:, None]).reshape(-1, model.size)
    return scores


def _sums(weights: Array, cluster: Codes, cell: Codes, cells: int) -> csr_array:
    return csr_array((weights, (cluster, cell)), shape=(int(cluster.max()) + 1, cells))


def _meat(scores: Array) -> tuple[Array, int]:
    groups = len(scores)
    if groups < 2:
        return np.zeros((scores.shape[1], scores.shape[1])), groups
    return groups / (groups - 1) * scores.T @ scores, groups


def _bootstrap(model: Model, by_prompt: csr_array, parameters: Array, seed: int, draws: int) -> Array:
    prompts = by_prompt.shape[0]
    if draws < 1 or prompts < 2:
        return np.zeros((0, model.size))
    tables = [by_prompt.T @ times.T for times in multiplicities(prompts, draws, seed, DRAWN_AT_ONCE)]
    counts = np.concatenate([np.asarray(table).T for table in tables]).reshape(draws, -1, 3)
    return newton(model, counts, parameters[None])
