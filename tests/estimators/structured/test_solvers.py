"""The estimators for a user's solver."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Generator, Tensor
from torch.distributions import Gumbel, Independent, Normal

import sampleprop as sp
from kinds import best
from sampleprop.estimators.structured.imle import Draw as IMLEDraw
from sampleprop.estimators.structured.perturbed_score import Draw

EXACT = {"rtol": 0, "atol": 1e-12}


def by_hand(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def assignment(scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    columns = np.stack([linear_sum_assignment(matrix, maximize=True)[1] for matrix in scores])
    return np.eye(scores.shape[-1])[columns]


def matrices(*, noise: Any = "normal", scale: float = 1.0, **arguments: Any) -> tuple[Tensor, sp.PerturbAndMAP]:
    scores = torch.randn(2, 3, 3, generator=Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    solver = arguments.pop("solver", assignment)
    numpy = arguments.pop("numpy", True)
    return scores, sp.PerturbAndMAP(scores, solver, noise=noise, scale=scale, event_ndim=2, numpy=numpy, **arguments)


def f(points: Tensor) -> Tensor:
    return (points * torch.arange(9, dtype=points.dtype).sqrt().reshape(3, 3)).sum((-2, -1)).sin()


def test_one_gumbel_sample_by_hand() -> None:
    """Z = (log 2, 0): ∇ν = 1 - e^-Z = (1/2, 0), times the cost 3 without a baseline."""
    scores = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    q = sp.PerturbAndMAP(scores, best, noise="gumbel")
    draw = Draw(by_hand(1, 0).reshape(1, 2), by_hand(2, 1).log().reshape(1, 2))
    value = sp.PerturbedScore(1).combine(q, draw, by_hand(3))
    torch.testing.assert_close(torch.autograd.grad(value, scores)[0], by_hand(1.5, 0), **EXACT)


@pytest.mark.parametrize(
    ("step", "symmetric", "wanted"),
    [(1.0, False, (1.0, -1.0)), (0.25, False, (0.0, 0.0)), (1.0, True, (0.5, -0.5))],
)
def test_imle_by_hand(step: float, symmetric: bool, wanted: tuple[float, float]) -> None:
    """θ = 0, Z = (1, 0), f = 2 y₁: the scores (1 - 2 λ, 0) have the solution (0, 1) at λ = 1, (1, 0) at λ = 1/4."""
    scores = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    q = sp.PerturbAndMAP(scores, best)
    first = by_hand(1, 0).reshape(1, 2)

    def twice(y: Tensor) -> Tensor:
        return 2 * y[..., 0]

    value = sp.IMLE(step=step, symmetric=symmetric).combine(q, IMLEDraw(first, first), twice(first), relaxed_f=twice)
    torch.testing.assert_close(torch.autograd.grad(value, scores)[0], by_hand(*wanted), **EXACT)


class _FreshNoise(sp.IMLE):
    """A mistake: the second solution is at other noise."""

    def estimate(self, variables: Any, draw: Any, costs: Any) -> Tensor:
        return super().estimate(variables, draw._replace(noise=draw.noise + by_hand(2, 0)), costs)


def test_other_noise_in_the_second_solution_fails_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sp, "IMLE", _FreshNoise)
    with pytest.raises(AssertionError):
        test_imle_by_hand(1.0, False, (1.0, -1.0))


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda s: s / 0 * 0, ValueError, r"needs finite solutions; the solver's row 0"),
        (lambda s: None, TypeError, "needs solutions as one tensor or array of numbers.* returned NoneType"),
        (lambda s: ["a path"] * len(s), TypeError, "the solver returned list"),
    ],
)
def test_answers_that_are_no_solutions_are_refused(answer: Any, error: type[Exception], message: str) -> None:
    scores = torch.zeros(5, 3, requires_grad=True)
    q = sp.PerturbAndMAP(scores, answer)
    for use in (q.sample, lambda: sp.expect(lambda y: y[..., 0] * 0, q, sp.PerturbedScore(2))):
        with pytest.raises(error, match=message):
            use()


def test_a_solver_is_not_asked_for_nothing() -> None:
    q = sp.PerturbAndMAP(torch.zeros(0, 3), lambda s: torch.stack([best(row) for row in s]))
    assert q.sample((4,)).shape == (4, 0, 3)


@pytest.mark.parametrize("noise", ["normal", "gumbel"])
def test_is_the_score_function_of_the_perturbed_scores(noise: Any) -> None:
    scores, q = matrices(noise=noise, scale=1.5)
    draw = sp.PerturbedScore(4).propose(q, generator=Generator().manual_seed(1))
    value = sp.PerturbedScore(4).combine(q, draw, f(draw.points))
    latent = Independent((Normal if noise == "normal" else Gumbel)(scores, 1.5 * torch.ones_like(scores)), 2)
    estimator = sp.ScoreFunction(4)
    perturbed = scores.detach() + 1.5 * draw.noise
    same = type(estimator.propose(latent))(perturbed)
    costs = f(torch.as_tensor(assignment(perturbed.reshape(-1, 3, 3).numpy())).reshape(perturbed.shape))
    wanted = estimator.combine(latent, same, costs)
    torch.testing.assert_close(value, wanted, **EXACT)
    torch.testing.assert_close(*(torch.autograd.grad(v.sum(), scores)[0] for v in (value, wanted)), rtol=0, atol=1e-10)


def test_the_length_of_imle_does_not_depend_on_how_costs_are_averaged() -> None:
    scores, q = matrices()
    gradients = []
    for share in (1.0, 1e-3):
        loss = share * sp.expect(f, q, sp.IMLE(4), generator=Generator().manual_seed(2)).sum()
        gradients.append(torch.autograd.grad(loss, scores)[0] / share)
    torch.testing.assert_close(*gradients, **EXACT)
    assert gradients[0].abs().max() > 0


def test_solver_is_called_once_for_all_points() -> None:
    seen: list[tuple[int, ...]] = []

    def solver(given: Any) -> Any:
        seen.append(given.shape)
        return assignment(given)

    _, q = matrices(solver=solver)
    sp.PerturbedScore(4).propose(q)
    assert seen == [(8, 3, 3)]


def test_numpy_torch_and_workers_agree() -> None:
    def in_torch(given: Tensor) -> Tensor:
        assert isinstance(given, Tensor)
        assert not given.requires_grad
        return torch.as_tensor(assignment(given.numpy()))

    draws = [
        q.solve(q.scores + torch.linspace(-1, 1, 9, dtype=torch.float64).reshape(3, 3))
        for _, q in (matrices(), matrices(solver=in_torch, numpy=False), matrices(workers=2))
    ]
    assert torch.equal(draws[0], draws[1])
    assert torch.equal(draws[0], draws[2])


def test_solutions_of_another_shape() -> None:
    def largest(given: Tensor) -> Tensor:
        return given.argmax(-1).to(given.dtype)

    scores = torch.zeros(5, 4, requires_grad=True)
    q = sp.PerturbAndMAP(scores, largest, event_shape=())
    value = sp.expect(lambda x: x.square(), q, sp.PerturbedScore(4))
    value.sum().backward()
    assert value.shape == (5,)
    assert scores.grad is not None
    refusal = sp.IMLE().refusal(q)
    assert refusal is not None
    assert "IMLE needs solutions of the shape of their scores, [4]" in refusal
    with pytest.raises(ValueError, match=r"needs one solution for each row.*\[5, 4\].*returned \[5\].*event_shape"):
        sp.PerturbAndMAP(scores, largest).sample()


@pytest.mark.parametrize(
    "estimator", [sp.ScoreFunction(), sp.Enumerate(), sp.MuProp(), sp.Pathwise(), sp.VIMCO()], ids=str
)
def test_others_say_what_works(estimator: sp.Estimator[Any, Any]) -> None:
    refusal = estimator.refusal(matrices()[1])
    assert refusal is not None
    assert "PerturbedScore" in refusal
    assert "IMLE" in refusal


def test_without_an_estimator_it_is_the_score_of_the_noise() -> None:
    scores, q = matrices()
    sp.expect(f, q).sum().backward()
    assert scores.grad is not None
    assert scores.grad.abs().max() > 0


def test_check_finds_a_solver_that_minimizes() -> None:
    _, q = matrices(solver=lambda given: assignment(-given))
    result = sp.check(f, q, sp.PerturbedScore(4), replicates=128)
    assert [finding.name for finding in result.findings if finding.severity == "error"] == ["solver minimizes"]
    right = sp.check(f, matrices()[1], sp.PerturbedScore(4), replicates=128)
    assert right.ok, str(right)
    assert "the solver maximizes" in str(right)


def test_check_finds_a_solver_that_is_random() -> None:
    random = np.random.default_rng(0)
    _, q = matrices(solver=lambda given: assignment(given + random.standard_normal(given.shape)))
    result = sp.check(f, q, sp.PerturbedScore(4), replicates=128)
    assert "random solver" in [finding.name for finding in result.findings]
    assert not result.ok


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise": "uniform"}, "normal"),
        ({"scale": 0.0}, "scale above 0"),
        ({"event_ndim": 3}, "event_ndim from 0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"PerturbAndMAP needs .*{message}.*; got"):
        sp.PerturbAndMAP(torch.zeros(4), best, **arguments)
    with pytest.raises(TypeError, match="PerturbAndMAP needs a solver that can be called"):
        sp.PerturbAndMAP(torch.zeros(4), 3)  # type: ignore[arg-type]


def test_has_no_log_probability() -> None:
    with pytest.raises(NotImplementedError, match="PerturbAndMAP has no log-probability"):
        matrices()[1].log_prob(torch.eye(3))
