"""`MovingAverage` moves by itself: after its own use, once, in training mode only."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal
from torch.utils.checkpoint import checkpoint

import sampleprop as sp
from sampleprop.estimators.score.score_function import Draw

COSTS = torch.tensor([[3.0, 5.0]])  # of one sample and two batch elements


def moving(start: float = 1.0, decay: float = 0.75) -> sp.ScoreFunction:
    return sp.ScoreFunction(1, baseline=sp.MovingAverage(start, decay))


def average(estimator: sp.ScoreFunction) -> float:
    assert isinstance(estimator.baseline, sp.MovingAverage)
    return estimator.baseline.average.item()


def estimate(estimator: sp.ScoreFunction, costs: Tensor = COSTS, phi: Tensor | None = None) -> Tensor:
    """The value of a draw with these costs, [2]."""
    phi = torch.zeros(2, requires_grad=True) if phi is None else phi
    dist = Bernoulli(logits=phi, validate_args=False)  # torch 2.6 validates no arguments under vmap
    return estimator.combine(dist, Draw(torch.ones(1, 2)), costs)


def test_without_an_optimizer_it_follows_the_cost() -> None:
    estimator = sp.ScoreFunction(1, baseline=sp.MovingAverage())
    phi = torch.zeros(8, requires_grad=True)
    for _ in range(100):
        sp.expect(lambda x: x + 10, Bernoulli(logits=phi), estimator).mean().backward()
    assert average(estimator) == pytest.approx(10.5, abs=0.3)
    assert estimator.learns == ()
    assert estimator.moves


def test_it_moves_by_the_mean_cost_in_the_first_backward_pass_and_not_before() -> None:
    estimator, phi = moving(), torch.zeros(2, requires_grad=True)
    value = estimate(estimator, phi=phi)
    assert average(estimator) == 1.0
    value.sum().backward(retain_graph=True)
    assert average(estimator) == 0.75 * 1 + 0.25 * 4
    value.sum().backward()
    assert average(estimator) == 1.75
    # The score of x = 1 is 1/2. Both backward passes subtract what the average was when the draw was combined.
    torch.testing.assert_close(phi.grad, 2 * torch.tensor([(3 - 1) / 2, (5 - 1) / 2]))


def test_two_estimates_of_one_step_subtract_the_same_average() -> None:
    estimator, phi = moving(), torch.zeros(2, requires_grad=True)
    (estimate(estimator, phi=phi) + estimate(estimator, 2 * COSTS, phi)).sum().backward()
    torch.testing.assert_close(phi.grad, torch.tensor([3 - 1 + 6 - 1, 5 - 1 + 10 - 1]) / 2)
    assert average(estimator) in (0.75 * 1.75 + 0.25 * 8, 0.75 * 2.75 + 0.25 * 4)  # in either order


def test_the_second_derivative_moves_it_no_further() -> None:
    estimator, phi = moving(), torch.zeros(2, requires_grad=True)
    (first,) = torch.autograd.grad(estimate(estimator, phi=phi).sum(), phi, create_graph=True)
    assert average(estimator) == 1.75
    first.sum().backward()
    assert average(estimator) == 1.75
    assert phi.grad is not None


def test_maximizing_moves_it_the_same_way() -> None:
    estimator = moving()
    (-2 * estimate(estimator)).sum().backward()
    assert average(estimator) == 1.75


def test_it_stays_in_eval_mode_without_gradients_and_under_transforms() -> None:
    estimator = moving().eval()
    estimate(estimator).sum().backward()
    estimator.train()
    with torch.no_grad():
        estimate(estimator)
    estimate(estimator, phi=torch.zeros(2)).sum()
    torch.func.grad(lambda phi: estimate(estimator, phi=phi).sum())(torch.zeros(2))
    rows = torch.func.vmap(torch.func.grad(lambda phi: estimate(estimator, phi=phi).sum()))(torch.zeros(3, 2))
    assert rows.shape == (3, 2)
    with torch.inference_mode():
        estimate(estimator)
    assert average(estimator) == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_cost_that_is_not_finite_does_not_stay_in_it(bad: float) -> None:
    estimator = moving()
    estimate(estimator, torch.tensor([[3.0, bad]])).sum().backward()
    assert average(estimator) == 1.0
    estimate(estimator).sum().backward()
    assert average(estimator) == 1.75


def test_an_empty_batch_leaves_it_alone() -> None:
    estimator, phi = moving(), torch.zeros(0, requires_grad=True)
    estimator.combine(Bernoulli(logits=phi), Draw(torch.ones(1, 0)), torch.ones(1, 0)).sum().backward()
    assert average(estimator) == 1.0


def test_what_checkpointing_computes_again_subtracts_the_same_average() -> None:
    def gradient(checkpointed: bool) -> Tensor:
        estimator, phi = moving(), torch.tensor([0.3, -0.2], requires_grad=True)

        def block(x: Tensor) -> Tensor:
            return estimate(estimator, COSTS, x) + estimate(estimator, 3 * COSTS, x)

        parts = [checkpoint(block, phi * i, use_reentrant=False) if checkpointed else block(phi * i) for i in (1, 2)]
        torch.stack(parts).sum().backward()
        assert average(estimator) != 1.0
        assert phi.grad is not None
        return phi.grad

    torch.testing.assert_close(gradient(True), gradient(False))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_step_moves_it_too(backend: str) -> None:
    torch.compiler.reset()
    estimators = (moving(), moving())
    found = []
    for estimator in estimators:
        phi = torch.zeros(2, requires_grad=True)

        def step(phi: Tensor, estimator: sp.ScoreFunction = estimator) -> Tensor:
            return estimate(estimator, COSTS, phi).sum()

        run = step if estimator is estimators[0] else torch.compile(step, fullgraph=True, backend=backend)
        for _ in range(3):
            run(phi).backward()
        estimator.eval()
        run(phi).backward()
        found.append((phi.grad, average(estimator)))
    torch.testing.assert_close(found[0], found[1])
    assert found[0][1] != 1.0


def test_it_is_a_buffer_and_survives_copies() -> None:
    estimator = moving()
    estimate(estimator).sum().backward()
    assert list(estimator.parameters()) == []
    assert {name: value.item() for name, value in estimator.state_dict().items()} == {"baseline.average": 1.75}
    fresh = moving()
    fresh.load_state_dict(estimator.state_dict())
    for other in (fresh, copy.deepcopy(estimator), pickle.loads(pickle.dumps(estimator))):
        assert average(other) == 1.75
        estimate(other).sum().backward()
        assert average(other) == 0.75 * 1.75 + 1
    assert average(estimator) == 1.75


def test_an_estimate_moves_the_average_that_it_subtracted_and_no_copy() -> None:
    estimator = moving()
    value = estimate(estimator)
    twin = copy.deepcopy(estimator)
    value.sum().backward()
    assert (average(estimator), average(twin)) == (1.75, 1.0)


def test_it_is_unbiased_while_it_moves() -> None:
    """Each draw subtracts the average of the draws before: no covariance with its own score, false alarm 1e-4."""
    estimator = moving(0.0, 0.5)
    phi = torch.tensor([0.4, -0.8], dtype=torch.float64)
    torch.manual_seed(0)
    rows, found = 64, []
    for _ in range(2000):
        leaf = phi.expand(rows, 2).clone().requires_grad_()
        q = Independent(Bernoulli(logits=leaf), 1)
        sp.expect(lambda x: 3 + x[..., 0] - 2 * x.prod(-1), q, estimator).sum().backward()
        assert leaf.grad is not None
        found.append(leaf.grad.mean(0))
    gradients = torch.stack(found)
    leaf = phi.clone().requires_grad_()
    exact = sp.expect(lambda x: 3 + x[..., 0] - 2 * x.prod(-1), Independent(Bernoulli(logits=leaf), 1), sp.Enumerate())
    exact.backward()
    z = (gradients.mean(0) - leaf.grad) / gradients.std(0) * math.sqrt(len(gradients))
    assert z.abs().max() < 4.1


@pytest.mark.parametrize("decay", [-0.1, 1.0, math.nan])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="MovingAverage needs a decay of at least 0 and below 1; got"):
        sp.MovingAverage(decay=decay)
    with pytest.raises(ValueError, match="MovingAverage needs a finite start; got inf"):
        sp.MovingAverage(math.inf)


def test_it_moves_for_continuous_variables() -> None:
    estimator, mean = moving(), torch.zeros(2, requires_grad=True)
    sp.expect(lambda x: 0 * x + 4, Normal(mean, 1.0), estimator).sum().backward()
    assert average(estimator) == 1.75
