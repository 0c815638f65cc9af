"""What all structures share, compared with brute force over their states.

False alarms: the tests of the sampling distribution spend 1e-3 together.
"""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from scipy import stats
from torch import Generator, Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.distributions import Independent, kl_divergence
from torch.func import grad, vmap

import kinds
import sampleprop as sp
from distributions.structures import LOG_LINEAR, STRUCTURES, Structure
from robustness.subject import subjects
from sampleprop.certificates import PROBLEMS
from sampleprop.families import Structures, recognize
from sampleprop.families.solutions import Solved
from sampleprop.families.structured import LogLinear, Structured

EXACT = {"rtol": 1e-12, "atol": 1e-12}
SAMPLES = 50_000
FALSE_ALARM = 1e-3 / (2 * len(STRUCTURES))

over = pytest.mark.parametrize("structure", STRUCTURES, ids=str)
over_log_linear = pytest.mark.parametrize("structure", LOG_LINEAR, ids=str)


def test_every_structure_is_met_by_all_tests() -> None:
    """Those of this file, of the contract, of the robustness matrix and of the certificates."""
    public = [getattr(sp, name) for name in sp.__all__]
    classes = [x for x in public if isinstance(x, type)]
    structures = {x for x in classes if issubclass(x, Structured)}
    solvers = {x for x in classes if issubclass(x, Solved)}
    assert structures == {type(structure.make(structure.theta(), True)) for structure in STRUCTURES}
    assert structures == {type(kind.dist(kind.phi(2))) for kind in kinds.STRUCTURES}
    assert structures == {type(case.kind.dist(case.kind.phi(2))) for case in subjects() if case.structured}
    assert structures | solvers <= {type(kind.dist(kind.phi(2))) for kind in kinds.KINDS}
    assert structures | solvers <= {type(problem.dist(problem.phi)) for problem in PROBLEMS}


def brute(structure: Structure, theta: Tensor) -> Tensor:
    """log p of each state, [states, *batch], for θ of one batch dimension."""
    return torch.stack([structure.log_probs(row) for row in theta], 1)


def listed(structure: Structure, dtype: torch.dtype) -> Tensor:
    return torch.tensor(list(structure.states()), dtype=dtype)


@over
def test_states(structure: Structure) -> None:
    dist = structure.make(structure.theta(2), True)
    states = listed(structure, dist.dtype)
    assert dist.support_size == len(states)
    assert torch.equal(dist.enumerate_support()[:, 1], states)
    assert torch.equal(dist.enumerate_support(expand=False)[:, 0], states)
    assert dist.contains(states).all()
    assert not dist.contains(states + 100).any()
    assert dist.support.check(dist.enumerate_support()).shape == (len(states), 2)


@over
def test_log_prob_and_its_derivatives(structure: Structure) -> None:
    theta = structure.theta(2)
    dist = structure.make(theta, True)
    found, wanted = dist.log_prob(dist.enumerate_support()), brute(structure, theta)
    torch.testing.assert_close(found, wanted, **EXACT)
    weights = torch.linspace(-1, 2, found.numel(), dtype=torch.float64).reshape(found.shape)
    firsts = [torch.autograd.grad((weights * x).sum(), theta, create_graph=True)[0] for x in (found, wanted)]
    torch.testing.assert_close(*firsts, **EXACT)
    if firsts[0].requires_grad:
        seconds = [torch.autograd.grad(first.sin().sum(), theta, materialize_grads=True)[0] for first in firsts]
        torch.testing.assert_close(*seconds, **EXACT)


@over
def test_masked_states_are_impossible_and_harmless(structure: Structure) -> None:
    theta = structure.masked.clone().requires_grad_()
    dist = structure.make(theta, True)
    log_p, wanted = dist.log_prob(dist.enumerate_support()), structure.log_probs(structure.masked)
    torch.testing.assert_close(log_p, wanted, **EXACT)
    (first,) = torch.autograd.grad((log_p.exp() * torch.arange(len(log_p))).sum(), theta, create_graph=True)
    assert first.isfinite().all()
    assert first.detach()[structure.masked == -torch.inf].abs().sum() == 0
    if first.requires_grad:
        assert torch.autograd.grad(first.sin().sum(), theta, materialize_grads=True)[0].isfinite().all()
    torch.testing.assert_close(dist.log_prob(dist.mode), log_p.max(), **EXACT)


@over_log_linear
def test_marginals_entropy_and_divergence(structure: Structure) -> None:
    theta, other = structure.theta(2), structure.theta(2, seed=1)
    dist = structure.make(theta, True)
    assert isinstance(dist, LogLinear)
    support, log_p = dist.enumerate_support(), brute(structure, theta)
    each = log_p.exp().reshape(*log_p.shape, *(1 for _ in dist.event_shape))
    torch.testing.assert_close(dist.mean, (each * support).sum(0), **EXACT)
    torch.testing.assert_close(dist.variance, (each * support**2).sum(0) - dist.mean**2, **EXACT)
    wanted = -(log_p.exp() * log_p).sum(0)
    divergence = (log_p.exp() * (log_p - brute(structure, other))).sum(0)
    found = dist.entropy(), kl_divergence(dist, structure.make(other, True))
    for x, y in zip(found, (wanted, divergence), strict=True):
        torch.testing.assert_close(x, y, **EXACT)
        torch.testing.assert_close(
            *(torch.autograd.grad(z.sum(), theta, retain_graph=True, materialize_grads=True)[0] for z in (x, y)),
            **EXACT,
        )


@over_log_linear
def test_masked_marginals_entropy_and_divergence(structure: Structure) -> None:
    theta = structure.masked.clone().requires_grad_()
    dist = structure.make(theta, True)
    assert isinstance(dist, LogLinear)
    p = structure.log_probs(structure.masked).exp()
    each = p.reshape(-1, *(1 for _ in dist.event_shape))
    torch.testing.assert_close(dist.mean, (each * dist.enumerate_support()).sum(0), **EXACT)
    torch.testing.assert_close(dist.entropy(), torch.special.entr(p).sum(), **EXACT)
    torch.testing.assert_close(kl_divergence(dist, dist), torch.zeros((), dtype=torch.float64), **EXACT)
    (gradient,) = torch.autograd.grad(dist.entropy() + dist.mean.square().sum(), theta)
    assert gradient.isfinite().all()


@over_log_linear
def test_log_normalizer_is_differentiable_twice(structure: Structure) -> None:
    dist = structure.make(structure.theta(2), True)
    assert isinstance(dist, LogLinear)
    names = tuple(dist.natural)
    tensors = tuple(
        x.detach().clone(memory_format=torch.contiguous_format).requires_grad_() for x in dist.natural.values()
    )

    def a(*tensors: Tensor) -> Tensor:
        return dist.log_normalizer(**dict(zip(names, tensors, strict=True)))

    assert gradcheck(a, tensors)
    assert gradgradcheck(a, tensors)


@over
@pytest.mark.parametrize("masked", [False, True], ids=["all possible", "masked"])
def test_sampling_distribution(structure: Structure, masked: bool) -> None:
    """By χ², with states of fewer than 5 expected samples taken together."""
    theta = structure.masked if masked else structure.theta().detach()
    dist = structure.make(theta, True)
    drawn = dist.draw(torch.Size((SAMPLES,)), Generator().manual_seed(3))
    assert drawn.dtype == dist.dtype
    rows, found = drawn.flatten(1).unique(dim=0, return_counts=True)
    states = dist.enumerate_support().flatten(1)
    counts = torch.zeros(len(states))
    for row, count in zip(rows, found, strict=True):
        counts += count * (states == row).all(1)
    assert counts.sum() == SAMPLES  # nothing but states is drawn
    expected = SAMPLES * structure.log_probs(theta).exp()
    assert counts[expected == 0].sum() == 0
    often = expected >= 5
    chi2 = ((counts - expected)[often].square() / expected[often]).sum()
    rest = expected[~often].sum()
    if rest > 0:
        chi2 = chi2 + (counts[~often].sum() - rest).square() / rest
    cells = int(often.sum()) + int(rest > 0)
    if cells > 1:
        assert stats.chi2.sf(float(chi2), cells - 1) > FALSE_ALARM
    else:
        assert chi2 < 1e-6


@over
def test_samples_follow_the_generator_and_the_shapes(structure: Structure) -> None:
    dist = structure.make(structure.theta(3, 2), True)
    one, other = (dist.draw(torch.Size((4,)), Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, other)
    assert one.shape == (4, 3, 2, *dist.event_shape)
    assert dist.sample().shape == (3, 2, *dist.event_shape)
    assert dist.mode.shape == (3, 2, *dist.event_shape)
    empty = structure.make(structure.theta(0), True)
    assert empty.sample((2,)).shape == (2, 0, *dist.event_shape)
    assert empty.log_prob(empty.sample()).shape == (0,)


@over
def test_expand_copy_and_pickle(structure: Structure) -> None:
    dist = structure.make(structure.theta(2).detach(), True)
    expanded = dist.expand((4, 2))
    points = dist.sample((3,))
    assert expanded.batch_shape == (4, 2)
    torch.testing.assert_close(expanded.log_prob(points.unsqueeze(1))[:, 0], dist.log_prob(points))
    buffer = io.BytesIO()
    pickle.dump(dist, buffer)
    for again in (copy.deepcopy(dist), pickle.loads(buffer.getvalue())):
        assert torch.equal(again.log_prob(points), dist.log_prob(points))


@over
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_precision(structure: Structure, dtype: torch.dtype) -> None:
    theta = structure.theta(2, dtype=dtype)
    dist = structure.make(theta, True)
    exact = structure.make(theta.detach().double(), True)
    assert dist.sample().dtype == (dtype if exact.dtype.is_floating_point else exact.dtype)
    support = dist.enumerate_support()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        log_p = dist.log_prob(support)
    assert log_p.dtype == torch.float32
    torch.testing.assert_close(log_p.double(), exact.log_prob(exact.enumerate_support()), rtol=0, atol=2e-5)
    (gradient,) = torch.autograd.grad((log_p.exp() * torch.arange(len(log_p))[:, None]).sum(), theta)
    assert gradient.isfinite().all()


@over
@pytest.mark.parametrize("size", [20.0, 3e4])
def test_large_logits(structure: Structure, size: float) -> None:
    theta = (size * structure.theta(16, dtype=torch.float32).detach().sign()).requires_grad_()
    dist = structure.make(theta, True)
    points = dist.sample((4,))
    log_p = dist.log_prob(points)
    (gradient,) = torch.autograd.grad(log_p.sum(), theta)
    assert log_p.isfinite().all()
    assert (log_p < 1e-3 * size).all()
    assert gradient.isfinite().all()
    exact = structure.make(theta.detach().double(), True)
    if isinstance(dist, LogLinear) and isinstance(exact, LogLinear):
        torch.testing.assert_close(dist.mean.double(), exact.mean, rtol=0, atol=2**-22 * size)


def _everything(structure: Structure, theta: Tensor) -> Tensor:
    dist = structure.make(theta, False)
    numbers = torch.arange(dist.support_size)
    total = (dist.log_prob(dist.states(numbers)) * numbers).sum().sin()
    if isinstance(dist, LogLinear):
        total = total + dist.mean.square().sum() + dist.entropy()
    return total


@over
def test_vmap(structure: Structure) -> None:
    theta = structure.theta(3).detach()
    mapped = vmap(grad(lambda row: _everything(structure, row)))(theta)
    looped = torch.stack([grad(lambda row: _everything(structure, row))(row) for row in theta])
    torch.testing.assert_close(mapped, looped, **EXACT)
    leaf = theta[0].clone().requires_grad_()
    (eager,) = torch.autograd.grad(_everything(structure, leaf), leaf)
    torch.testing.assert_close(mapped[0], eager, **EXACT)
    points = vmap(lambda row: structure.make(row, False).sample((2,)), randomness="different")(theta)
    assert structure.make(theta[0], True).contains(points).all()


@pytest.mark.slow
@over
def test_compiles_in_one_piece(structure: Structure) -> None:
    def both(theta: Tensor) -> tuple[Tensor, Tensor]:
        dist = structure.make(theta, False)
        return _everything(structure, theta), dist.sample((2,))

    torch._dynamo.reset()
    results = []
    for function in (both, torch.compile(both, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(1)
        theta = structure.theta()
        value, points = function(theta)
        results.append((value, points, torch.autograd.grad(value, theta)[0]))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@over
def test_without_gradients(structure: Structure) -> None:
    theta = structure.theta()
    wanted = structure.make(theta, True)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            dist = structure.make(theta.detach().clone(), True)
            torch.testing.assert_close(dist.log_prob(dist.mode), wanted.log_prob(wanted.mode).detach(), **EXACT)
            if isinstance(dist, LogLinear) and isinstance(wanted, LogLinear):
                torch.testing.assert_close(dist.mean, wanted.mean.detach(), **EXACT)
                torch.testing.assert_close(dist.entropy(), wanted.entropy().detach(), **EXACT)
    detached = structure.make(theta.detach(), True)
    if isinstance(detached, LogLinear):
        assert not detached.mean.requires_grad


@over
def test_independent_copies_are_a_product(structure: Structure) -> None:
    theta = structure.theta(3, 2)
    both = Independent(structure.make(theta, True), 1)
    variables, parts = recognize(both), structure.make(theta, True)
    assert isinstance(variables, Structures)
    points = parts.sample((5,))
    torch.testing.assert_close(variables.log_prob(points), parts.log_prob(points).sum(-1), **EXACT)
    count = parts.support_size
    assert variables.support_size == count**2
    if count**2 <= 500:
        torch.testing.assert_close(
            variables.support_log_prob().logsumexp(0), torch.zeros(3, dtype=torch.float64), **EXACT
        )
        pairs = variables.support().flatten(1)
        assert len(pairs.unique(dim=0)) == count**2


@over
def test_scores_are_the_derivatives_of_log_prob(structure: Structure) -> None:
    theta = structure.theta(2)
    dist = structure.make(theta, True)
    variables = recognize(dist)
    assert isinstance(variables, Structures)
    points = dist.sample((3,))
    weights = torch.tensor([[0.5, -1.0], [2.0, 0.3], [0.0, 1.0]], dtype=torch.float64)
    (wanted,) = torch.autograd.grad((weights * dist.log_prob(points)).sum(), variables.logits, allow_unused=True)
    if wanted is None:  # packed from several parameters
        (wanted,) = torch.autograd.grad((weights * variables.log_prob(points)).sum(), variables.logits)
    torch.testing.assert_close(variables.gradient_for_logits(points, weights), wanted, **EXACT)
    scores = variables.score(points)
    scaled = weights.reshape(weights.shape + (1,) * (scores.dim() - 2)) * scores
    torch.testing.assert_close(scaled.sum(0), wanted, **EXACT)


@over
def test_refusals(structure: Structure) -> None:
    theta = structure.theta(2).detach()
    name = type(structure.make(theta, True)).__name__
    for wrong in (torch.nan, torch.inf):
        spoiled = theta.clone()
        spoiled[1].view(-1)[0] = wrong
        with pytest.raises(ValueError, match=f"{name} needs .* that are finite or -inf; got .* at index"):
            structure.make(spoiled, True)
    dist = structure.make(theta, True)
    with pytest.raises(ValueError, match="support"):
        dist.log_prob(dist.sample() + 100)
    if structure.impossible is None:
        return
    rows = torch.stack((theta[0], structure.impossible))
    with pytest.raises(ValueError, match=rf"{name} needs .*; got none in row \[1\]"):
        structure.make(rows, True)
    with pytest.raises(ValueError, match=rf"{name} needs .*; got none in row \[1\]"):
        sp.ScoreFunction().propose(structure.make(rows, False))
