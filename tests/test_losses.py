"""Equations 1 to 7 against float64 references written out here, and what must hold between them."""

import math

import pytest
import torch
from torch import Tensor

from trainers.losses import latent_sft, latent_zt, renoised, weighted_sum
from trainers.pixel_losses import pixel_sft
from trainers.preference_losses import agreement, dpo, simpo
from trainers.schedules import DiffusionSchedule, FlowSchedule, Prediction, target, to_denoised

N, SHAPE = 6, (6, 4, 8, 8)
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
STABLE_DIFFUSION = DiffusionSchedule((1 - BETAS).cumprod(0).float())


def draw(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def reference_mean_square(a: Tensor, b: Tensor) -> list[float]:
    """Mean over the elements of each sample, in float64, by plain loops over samples."""
    return [float(sum((x - y) ** 2 for x, y in zip(p, q, strict=True)) / len(p)) for p, q in _lists(a, b)]


def _lists(a: Tensor, b: Tensor) -> list[tuple[list[float], list[float]]]:
    return [(x.double().flatten().tolist(), y.double().flatten().tolist()) for x, y in zip(a, b, strict=True)]


def reference_log_sigmoid_loss(x: float) -> float:
    return math.log1p(math.exp(-x)) if x > 0 else -x + math.log1p(math.exp(x))


def test_latent_losses_equal_a_float64_reference() -> None:
    eps, eps_hat = draw(0), draw(1)
    _, s = STABLE_DIFFUSION.coefficients(torch.tensor([0, 10, 200, 500, 800, 999]))
    expected = reference_mean_square(eps_hat, eps)
    torch.testing.assert_close(latent_sft(eps_hat, eps), torch.tensor(expected), rtol=1e-6, atol=0)
    weighted = [e * float(x) ** 2 for e, x in zip(expected, s.double().flatten(), strict=True)]
    torch.testing.assert_close(latent_zt(s, eps_hat, eps), torch.tensor(weighted), rtol=1e-5, atol=0)
    torch.testing.assert_close(pixel_sft(eps_hat, eps), torch.tensor(expected), rtol=1e-6, atol=0)


def test_preference_losses_equal_a_float64_reference() -> None:
    winner, loser, reference_winner, reference_loser = (draw(i).square().flatten(1).mean(1) for i in range(4))
    beta = 3.0
    rows = zip(*(x.double().tolist() for x in (winner, loser, reference_winner, reference_loser)), strict=True)
    four, five = [], []
    for w, x, rw, rx in rows:
        four.append(reference_log_sigmoid_loss(-beta * ((w - rw) - (x - rx))))
        five.append(reference_log_sigmoid_loss(-beta * (w - x)))
    found = dpo(winner, loser, reference_winner, reference_loser, beta).loss
    torch.testing.assert_close(found, torch.tensor(four), rtol=1e-5, atol=0)
    torch.testing.assert_close(simpo(winner, loser, beta).loss, torch.tensor(five), rtol=1e-5, atol=0)


def test_dpo_starts_at_ln_2_with_accuracy_one_half() -> None:
    winner, loser = torch.rand(N), torch.rand(N)
    loss, logit = dpo(winner, loser, winner.clone(), loser.clone(), beta=5000.0)
    torch.testing.assert_close(loss, torch.full((N,), math.log(2)))
    assert agreement(logit).mean() == 0.5


def test_simpo_is_dpo_with_a_zero_reference() -> None:
    winner, loser, zero = torch.rand(N), torch.rand(N), torch.zeros(N)
    torch.testing.assert_close(simpo(winner, loser, 20.0), dpo(winner, loser, zero, zero, 20.0), rtol=0, atol=0)


def test_a_smaller_winner_error_lowers_the_loss() -> None:
    winner = torch.tensor([0.2], requires_grad=True)
    loser = torch.tensor([0.2], requires_grad=True)
    simpo(winner, loser, 10.0).loss.sum().backward()
    assert winner.grad is not None
    assert loser.grad is not None
    assert float(winner.grad) > 0 > float(loser.grad)


def test_soft_labels_mix_both_orders() -> None:
    winner, loser = torch.rand(N), torch.rand(N)
    hard, opposite = simpo(winner, loser, 4.0).loss, simpo(loser, winner, 4.0).loss
    label = torch.full((N,), 0.7)
    torch.testing.assert_close(simpo(winner, loser, 4.0, label).loss, 0.7 * hard + 0.3 * opposite)
    torch.testing.assert_close(simpo(winner, loser, 4.0, torch.ones(N)).loss, hard)


def test_the_sum_of_two_log_sigmoids_is_not_the_log_sigmoid_of_a_sum() -> None:
    latent, pixel = (
        simpo(torch.tensor([0.1]), torch.tensor([0.4]), 2.0),
        simpo(torch.tensor([0.3]), torch.tensor([0.1]), 2.0),
    )
    expected = reference_log_sigmoid_loss(2 * 0.3) + 8 * reference_log_sigmoid_loss(-2 * 0.2)
    assert float(weighted_sum(latent.loss, pixel.loss, 8.0)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow_prediction"])
def test_the_pixel_argument_agrees_for_every_parametrisation(prediction: Prediction) -> None:
    """z_t + s (eps_hat - eps) equals the table of closed forms, each in float64."""
    schedule = FlowSchedule(1000, 1.0) if prediction == "flow_prediction" else STABLE_DIFFUSION
    z, eps, error = draw(0), draw(1), 0.3 * draw(2)
    t = torch.tensor([20, 100, 300, 500, 700, 950])
    a, s = schedule.coefficients(t)
    z_t = a * z + s * eps
    output = target(prediction, z, eps, a, s) + error
    eps_hat, x0_hat = to_denoised(prediction, output, z_t, a, s)
    found = renoised(z_t, s, eps_hat, eps)
    a64, s64, e64 = a.double(), s.double(), error.double()
    term = {
        "epsilon": s64 * e64,
        "v_prediction": a64 * s64 * e64,
        "sample": -a64 * e64,
        "flow_prediction": s64 * (1 - s64) * e64,
    }
    expected = a64 * z.double() + s64 * eps.double() + term[prediction]
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=3e-6)
    torch.testing.assert_close(a * x0_hat + s * eps_hat, z_t, rtol=0, atol=3e-6)


def test_all_parametrisations_of_the_same_belief_give_the_same_pixel_argument() -> None:
    z, eps, eps_belief = draw(0), draw(1), draw(3)
    a, s = STABLE_DIFFUSION.coefficients(torch.tensor([20, 100, 300, 500, 700, 950]))
    z_t = a * z + s * eps
    x0_belief = (z_t - s * eps_belief) / a
    outputs: dict[Prediction, Tensor] = {
        "epsilon": eps_belief,
        "v_prediction": a * eps_belief - s * x0_belief,
        "sample": x0_belief,
    }
    arguments = [renoised(z_t, s, to_denoised(p, o, z_t, a, s).eps, eps) for p, o in outputs.items()]
    for argument in arguments[1:]:
        torch.testing.assert_close(argument, arguments[0], rtol=0, atol=1e-5)


def test_a_perfect_prediction_has_no_error_in_any_parametrisation() -> None:
    z, eps = draw(0), draw(1)
    a, s = STABLE_DIFFUSION.coefficients(torch.tensor([0, 100, 300, 500, 700, 999]))
    z_t = a * z + s * eps
    for prediction in ("epsilon", "v_prediction", "sample"):
        found = to_denoised(prediction, target(prediction, z, eps, a, s), z_t, a, s)
        torch.testing.assert_close(renoised(z_t, s, found.eps, eps), z_t, rtol=0, atol=3e-6)
        assert float(latent_sft(s * found.eps, s * eps).max()) < 1e-10


def test_half_precision_predictions_do_not_round_the_pixel_argument() -> None:
    """In bfloat16 the difference of noises, and its sum with the latent, would be off by a hundredth."""
    z_t, eps, s = draw(0), draw(1), torch.full((N, 1, 1, 1), 0.9)
    eps_hat = (eps + 0.1 * draw(2)).bfloat16()
    wanted = z_t.double() + 0.9 * (eps_hat.double() - eps.double())
    found = renoised(z_t, s, eps_hat, eps)
    torch.testing.assert_close(found, wanted.float(), rtol=0, atol=1e-6)
    assert float((found.bfloat16().double() - wanted).abs().max()) > 5e-3, "it would show"


def test_flow_times_follow_the_shift() -> None:
    plain = FlowSchedule(1000, 1.0).sample(4000, torch.Generator().manual_seed(0))
    shifted = FlowSchedule(1000, 3.0).sample(4000, torch.Generator().manual_seed(0))
    assert float(plain.mean()) == pytest.approx(500, abs=15)
    torch.testing.assert_close(shifted / 1000, 3 * plain / 1000 / (1 + 2 * plain / 1000))
