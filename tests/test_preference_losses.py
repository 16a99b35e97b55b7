"""Preference losses against float64 references, conventions of beta, and what a safe loser gradient guarantees."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainers.losses import mean_square
from trainers.preference_losses import (
    CONVENTIONS,
    convert_beta,
    dpo,
    ipo,
    mapo,
    mapo_odds,
    safe_loser_scale,
    scale_gradient,
    simpo,
)

N = 6


def draws() -> list[Tensor]:
    return [torch.rand(N, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]


def log_sigmoid(x: np.ndarray) -> np.ndarray:
    return -np.log1p(np.exp(-x))


def test_ipo_is_the_usual_one_times_beta_squared() -> None:
    winner, loser, fixed_winner, fixed_loser = draws()
    beta = 3.0
    h = ((loser - fixed_loser) - (winner - fixed_winner)).double().numpy()
    expected = beta**2 * (h - 1 / (2 * beta)) ** 2
    found = ipo(winner, loser, fixed_winner, fixed_loser, beta)
    torch.testing.assert_close(found.loss.double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-7)
    start = torch.zeros(1, requires_grad=True)
    at_start = ipo(start, torch.zeros(1), torch.zeros(1), torch.zeros(1), beta).loss
    assert float(at_start.detach()) == 0.25
    at_start.backward()
    assert start.grad is not None and float(start.grad) == beta, "falls by 1 per logit, and the logit by beta per error"


def test_mapo_equals_a_float64_reference() -> None:
    winner, loser = draws()[:2]

    def odds(error: Tensor) -> np.ndarray:
        x = 0.5 * error.double().numpy()
        return x / np.expm1(x)

    expected = winner.double().numpy() - 0.1 * log_sigmoid(1000 * (odds(winner) - odds(loser)))
    found = mapo(winner, loser, 0.1)
    torch.testing.assert_close(found.loss.double(), torch.from_numpy(expected), rtol=1e-4, atol=1e-5)
    assert bool(((found.logit > 0) == (winner < loser)).all())


@pytest.mark.parametrize("error", [0.0, 1e-6, 1.9e-4, 2.1e-4, 0.01, 1.0, 8.0])
def test_the_odds_of_mapo_have_the_right_slope_also_near_zero(error: float) -> None:
    x = torch.tensor([error], dtype=torch.float32, requires_grad=True)
    mapo_odds(x).sum().backward()
    k = 0.5 * float(x.detach())
    slope = -0.25 + k / 12 if k < 1e-3 else 0.5 * (math.expm1(k) - k * math.exp(k)) / math.expm1(k) ** 2
    assert x.grad is not None and float(x.grad) == pytest.approx(slope, rel=1e-5)
    expected = 1 - k / 2 if k < 1e-4 else k / math.expm1(k)
    assert float(mapo_odds(x.detach())) == pytest.approx(expected, rel=1e-6)


def test_mapo_does_not_push_a_loser_for_ever() -> None:
    winner, near, far = (
        torch.tensor([0.1]),
        torch.tensor([0.1], requires_grad=True),
        torch.tensor([9.0], requires_grad=True),
    )
    for loser in (near, far):
        mapo(winner, loser, 0.1).loss.sum().backward()
    assert near.grad is not None and far.grad is not None
    assert abs(float(far.grad)) < 1e-6 * abs(float(near.grad))


def test_a_margin_must_be_exceeded_in_either_order() -> None:
    winner, loser, fixed_winner, fixed_loser = draws()
    logit = 4.0 * (loser - winner).double().numpy()
    label = torch.full((N,), 0.7)
    expected = -(0.7 * log_sigmoid(logit - 0.5) + 0.3 * log_sigmoid(-logit - 0.5))
    found = simpo(winner, loser, 4.0, label, margin=0.5)
    torch.testing.assert_close(found.loss.double(), torch.from_numpy(expected), rtol=1e-5, atol=0)
    torch.testing.assert_close(found.logit.double(), torch.from_numpy(logit), rtol=1e-5, atol=1e-7)
    for method in (dpo, ipo):
        hard = method(winner, loser, fixed_winner, fixed_loser, 4.0)
        swapped = method(loser, winner, fixed_loser, fixed_winner, 4.0)
        mixed = method(winner, loser, fixed_winner, fixed_loser, 4.0, label)
        torch.testing.assert_close(mixed.loss, 0.7 * hard.loss + 0.3 * swapped.loss)


def test_betas_of_other_conventions_give_the_same_exponent() -> None:
    mean, half, whole = (CONVENTIONS[name] for name in ("mean", "half_mean", "sum"))
    assert convert_beta(5000.0, half, mean, 4 * 64 * 64) == 2500.0
    assert convert_beta(2000.0, half, mean, 1) == 1000.0
    squares = torch.rand(2, 4, 8, 8, dtype=torch.float64).square()
    difference = squares[1] - squares[0]
    for source, value in ((half, 0.5 * difference.mean()), (whole, difference.sum()), (mean, difference.mean())):
        for target, other in ((half, 0.5 * difference.mean()), (whole, difference.sum()), (mean, difference.mean())):
            beta = convert_beta(7.0, source, target, difference.numel())
            assert float(beta * other) == pytest.approx(float(7.0 * value), rel=1e-12)


def test_the_safe_scale_equals_its_closed_form() -> None:
    winner = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    loser = torch.tensor([[4.0, 3.0], [-1.0, 2.0], [0.1, 0.1], [1.0, 1.0]])
    # 0.5 * 1 / 4; opposed gradients; 0.5 * 2 / 0.2 is above 1; nothing to protect
    torch.testing.assert_close(safe_loser_scale(winner, loser, 0.5), torch.tensor([0.125, 1.0, 1.0, 1.0]))
    torch.testing.assert_close(safe_loser_scale(winner, loser, 1.0), torch.tensor([0.0, 1.0, 0.0, 1.0]))


def test_scaling_a_gradient_leaves_the_value() -> None:
    x = torch.tensor([3.0, -2.0], requires_grad=True)
    scaled = scale_gradient(x.square(), torch.tensor([0.25, 0.0]))
    assert torch.equal(scaled.detach(), torch.tensor([9.0, 4.0]))
    scaled.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [1.5, -0.0]


@pytest.mark.parametrize("safety", [None, 0.0, 0.5])
def test_a_step_raises_the_winners_error_only_without_the_scale(safety: float | None) -> None:
    """A model that answers winner and loser alike: the loser's gradient is larger and points the winner's way."""
    torch.manual_seed(0)
    model = nn.Linear(5, 8)
    x = torch.randn(1, 5)
    with torch.no_grad():
        answer = model(x)
    towards = torch.randn(1, 8)
    winner_target, loser_target = answer - 0.1 * towards, answer - towards

    def both() -> tuple[Tensor, Tensor, Tensor]:
        output = model(x)
        return output, mean_square(output - winner_target), mean_square(output - loser_target)

    output, winner, loser = both()
    if safety is not None:
        slopes = [torch.autograd.grad(e.sum(), output, retain_graph=True)[0] for e in (winner, loser)]
        loser = scale_gradient(loser, safe_loser_scale(slopes[0], slopes[1], safety))
    simpo(winner, loser, 1.0).loss.sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter -= 1e-3 * parameter.grad
        change = float(both()[1] - winner)
    if safety is None:
        assert change > 1e-6
    else:
        assert change <= 1e-8
        assert (change < -1e-8) == (safety > 0)
