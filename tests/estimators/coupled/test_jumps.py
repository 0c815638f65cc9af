"""CoupledPerturbation and GOGradient, jumps to the next outcome: one of them drawn, or each in turn."""

import io
import math
import pickle

import pytest
import torch
from torch import Generator, Tensor
from torch.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    Independent,
    NegativeBinomial,
    Normal,
    OneHotCategorical,
    Poisson,
)
from torch.func import grad, vmap
from torch.nn.functional import one_hot

import sampleprop as sp
from estimators.counts import (
    COUNTS,
    LAWS,
    ROWS,
    Law,
    Z,
    certify,
    cost,
    exact,
    float64,
    grid,
    independent,
    largest_z,
    replicates,
)
from sampleprop import families
from sampleprop.estimators.coupled import go_gradient
from sampleprop.estimators.coupled.coupled_perturbation import CoupledPerturbation, Draw
from sampleprop.estimators.coupled.go_gradient import GOGradient
from sampleprop.estimators.coupled.jumps import Jumps, jumps

STEPS = [CoupledPerturbation(2), GOGradient()]


@pytest.mark.parametrize("estimator", STEPS, ids=str)
@pytest.mark.parametrize("name", LAWS)
def test_jumps_are_unbiased(name: str, estimator: sp.Estimator) -> None:
    certify(estimator, LAWS[name])


def every_draw(law: Law) -> tuple[Draw, Tensor]:
    """Each pair of outcomes with each of its alternatives, as the rows of a batch; and their probabilities, [rows]."""
    points, probability = possible(law)
    neighbours, weights, _ = jumps(families.recognize(law.dist(law.phi)), points)  # [pairs, 2, sides]
    merged = weights.sum((1, 2)) == 0
    shares = weights / weights.sum((1, 2), keepdim=True).clamp_min(1e-300)
    shares[:, 0, 0] += merged
    choices = torch.eye(weights[0].numel(), dtype=torch.bool).reshape(-1, 1, *weights.shape[1:])
    moved = choices.expand(-1, *weights.shape)  # [alternatives, pairs, 2, sides]
    moves = moved & (weights > 0)
    target = torch.where(moves, neighbours, 0).sum(-1).to(points.dtype)
    probes = torch.where(moves.any(-1), target, points)
    joint = probability * (moved * shares).sum((2, 3))
    entries = torch.arange(len(choices)).unsqueeze(-1).expand(joint.shape)
    draw = Draw(points.expand_as(probes).flatten(0, 1)[None], probes.flatten(0, 1)[None], entries.flatten()[None])
    return draw, joint.flatten()


def possible(law: Law) -> tuple[Tensor, Tensor]:
    """Every pair of possible outcomes, [pairs, 2], and its probability, [pairs]."""
    points = grid(law)
    probability = families.recognize(law.dist(law.phi)).log_prob(points).exp()
    return points[probability > 0], probability[probability > 0]


def mean_gradient(estimator: sp.Estimator, law: Law, draw: Draw | go_gradient.Draw, probability: Tensor) -> Tensor:
    """The mean over draws, one in each row of the batch."""
    leaf = law.phi.expand(len(probability), *law.phi.shape).clone().requires_grad_()
    value = estimator.combine(law.dist(leaf), draw, law.f(draw.points), probe_costs=law.f(draw.probes))
    value.sum().backward()
    torch.testing.assert_close(probability @ value.detach(), exact(law)[0])
    return torch.tensordot(probability, leaf.grad, 1)


@pytest.mark.parametrize("name", LAWS)
def test_sum_over_all_draws_is_exact(name: str) -> None:
    law = LAWS[name]
    found = mean_gradient(CoupledPerturbation(), law, *every_draw(law))
    torch.testing.assert_close(found, exact(law)[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", LAWS)
def test_sum_over_all_points_is_exact(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the GO gradient, which has no other noise."""
    law = LAWS[name]
    points, probability = possible(law)
    dist = law.dist(law.phi.expand(len(points), *law.phi.shape))
    monkeypatch.setattr(type(families.recognize(dist)), "sample", lambda variables, k, generator: points[None])
    draw = GOGradient().propose(dist)
    found = mean_gradient(GOGradient(), law, draw, probability)
    torch.testing.assert_close(found, exact(law)[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("v", [0, 1])
@pytest.mark.parametrize("name", COUNTS)
def test_rates_are_the_derivative_of_the_distribution_function(name: str, v: int) -> None:
    """-∂F(x)/p(x) for a jump up, ∂F(x - 1)/p(x) for one down. F is a sum, so only where its rounding is below p."""
    law = LAWS[name]
    axis = torch.arange(float(law.outcomes), dtype=torch.float64)
    points = torch.stack((axis, axis), -1)

    def masses(phi: Tensor) -> Tensor:
        return families.unwrap(law.dist(phi))[0].log_prob(points)[:, v].exp()

    mass = masses(law.phi)
    slope = torch.autograd.functional.jacobian(lambda phi: masses(phi).cumsum(0), law.phi)[:, v]
    neighbours, weights, directions = (x[:, v, 0] for x in jumps(families.recognize(law.dist(law.phi)), points))
    up, down = -slope / mass, torch.cat((float64(0.0), slope[:-1])) / mass
    shown = mass > 1e-6
    expected = torch.where(neighbours > axis, up, down)[shown]
    torch.testing.assert_close((weights * directions)[shown], expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", LAWS)
def test_alternatives_are_possible_neighbours_in_one_coordinate(name: str) -> None:
    law = LAWS[name]
    dist = law.dist(law.phi.expand(2000, *law.phi.shape))
    draw = CoupledPerturbation(2).propose(dist)
    each = GOGradient(2).propose(dist)
    for points, probes in ((draw.points, draw.probes), (each.points, each.probes.unflatten(0, (-1, 2)))):
        assert dist.log_prob(probes).isfinite().all()
        assert probes.dtype == points.dtype
        changed = probes != points
        assert (changed.sum(-1) <= 1).all()
        jumped = (probes - points)[changed].abs()
        assert (jumped == 1).all() or "gap" in name
    sides = 2 if draw.points.dtype == torch.int64 else 1
    assert ((draw.probes != draw.points) <= one_hot(draw.moved // sides, draw.points.shape[-1]).bool()).all()


def test_a_linear_cost_of_a_poisson_count_leaves_no_noise() -> None:
    rate = torch.full((100,), 2.5, requires_grad=True)
    for estimator in STEPS:
        (gradient,) = torch.autograd.grad(sp.expect(lambda x: 3 * x, Poisson(rate), estimator).sum(), rate)
        assert torch.equal(gradient, torch.full((100,), 3.0))


@pytest.mark.parametrize(("logit", "side"), [(-1.0, 1), (1.0, -1)])
def test_a_jump_starts_from_the_side_of_the_smaller_weight(logit: float, side: int) -> None:
    draw = CoupledPerturbation(1000).propose(Binomial(4, logits=torch.tensor(logit)))
    steps = (draw.probes - draw.points).unique()
    assert side in steps
    assert -side not in steps


def test_however_probabilities_are_spelled_the_draw_serves() -> None:
    """torch computes probs from logits when it samples; a distribution made afresh has not done so."""
    logits = torch.tensor([[-0.8, 1.3], [0.2, -2.0]], dtype=torch.float64)
    fresh, sampled = (independent(Binomial(5, logits=logits.clone().requires_grad_())) for _ in range(2))
    draw = CoupledPerturbation(3).propose(sampled, generator=Generator().manual_seed(0))
    results = []
    for dist in (fresh, sampled):
        value = CoupledPerturbation().combine(dist, draw, cost(draw.points), probe_costs=cost(draw.probes))
        results.append(torch.autograd.grad(value.sum(), dist.base_dist.logits)[0])
    assert torch.equal(*results)


SATURATED = {
    "bits": lambda logits: Bernoulli(logits=logits),
    "binomial": lambda logits: Binomial(5, logits=logits),
    "integers": lambda logits: Categorical(logits=logits),
}


@pytest.mark.parametrize("size", [20.0, 1e4])
@pytest.mark.parametrize("kind", SATURATED)
@pytest.mark.parametrize("estimator", STEPS, ids=str)
def test_saturated_logits_stay_finite(estimator: sp.Estimator, kind: str, size: float) -> None:
    signs = torch.randn(64, 3, generator=Generator().manual_seed(2)).sign()
    logits = (size * signs).requires_grad_()
    value = sp.expect(lambda x: x.float(), SATURATED[kind](logits), estimator)
    value.sum().backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("estimator", STEPS, ids=str)
def test_probabilities_of_zero_and_one_have_the_derivative_to_their_side(estimator: sp.Estimator) -> None:
    probs = float64(0.0, 1.0).requires_grad_()
    sp.expect(lambda x: x**2, Binomial(5, probs=probs), estimator).sum().backward()
    torch.testing.assert_close(probs.grad, 5 * float64(1 - 0, 5**2 - 4**2))


@pytest.mark.parametrize(("shape", "event_ndim"), [((), 0), ((2,), 0), ((2,), 1), ((2, 3, 4), 1), ((2, 3, 4), 2)])
@pytest.mark.parametrize("estimator", STEPS, ids=str)
def test_any_batch_and_event_shape(estimator: sp.Estimator, shape: tuple[int, ...], event_ndim: int) -> None:
    rate = torch.full(shape, 1.5, requires_grad=True)
    dist = Independent(Poisson(rate), event_ndim) if event_ndim else Poisson(rate)
    value = sp.expect(lambda x: x.flatten(x.dim() - event_ndim).sum(-1) if event_ndim else x, dist, estimator)
    value.sum().backward()
    batch = shape[: len(shape) - event_ndim]
    assert value.shape == batch
    # Each coordinate moves, or one gets the weight of all: the sum over the event is exact.
    total = rate.grad.flatten(len(batch)).sum(-1) if event_ndim else rate.grad
    torch.testing.assert_close(total, torch.full(batch, float(math.prod(shape[len(batch) :]))))


@pytest.mark.parametrize(("estimator", "count"), [(CoupledPerturbation(3), 6), (GOGradient(3), 3 * 51)], ids=str)
def test_evaluations_are_counted(estimator: sp.Estimator, count: int) -> None:
    seen = []

    def f(x: Tensor) -> Tensor:
        seen.append(x.shape[0])
        return x.sum(-1)

    dist = independent(Poisson(torch.ones(50, requires_grad=True)))
    sp.expect(f, dist, estimator)
    assert estimator.evaluations(dist) == (sum(seen), 0) == (count, 0)


@pytest.mark.parametrize("estimator", STEPS, ids=str)
@pytest.mark.parametrize("name", LAWS)
def test_draws_can_be_saved_and_made_without_gradients(name: str, estimator: sp.Estimator) -> None:
    law = LAWS[name]
    phi = law.phi.expand(5, *law.phi.shape)

    def gradient(draw: Draw | go_gradient.Draw) -> Tensor:
        leaf = phi.clone().requires_grad_()
        value = estimator.combine(law.dist(leaf), draw, law.f(draw.points), probe_costs=law.f(draw.probes))
        return torch.autograd.grad(value.sum(), leaf)[0]

    draw = estimator.propose(law.dist(phi.clone().requires_grad_()), generator=Generator().manual_seed(1))
    with torch.no_grad():
        quiet = estimator.propose(law.dist(phi), generator=Generator().manual_seed(1))
    file = io.BytesIO()
    torch.save(draw, file)
    file.seek(0)
    for other in (quiet, torch.load(file, weights_only=False), pickle.loads(pickle.dumps(draw))):
        assert torch.equal(gradient(draw), gradient(other))


@pytest.mark.parametrize("estimator", STEPS, ids=str)
@pytest.mark.parametrize("name", ["negative binomial by probs", "integers"])
def test_compiles(name: str, estimator: sp.Estimator) -> None:
    law = LAWS[name]
    results = []

    def step(phi: Tensor) -> Tensor:
        return sp.expect(law.f, law.dist(phi), estimator)

    torch._dynamo.reset()
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(1)
        leaf = law.phi.expand(4, *law.phi.shape).clone().requires_grad_()
        results.append(torch.autograd.grad(function(leaf).sum(), leaf)[0])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("estimator", STEPS, ids=str)
@pytest.mark.parametrize("name", ["poisson", "bits", "integers"])  # torch cannot draw the others under vmap
def test_gradients_under_vmap(name: str, estimator: sp.Estimator) -> None:
    law = LAWS[name]
    torch.manual_seed(2)
    found = vmap(grad(lambda phi: sp.expect(law.f, law.dist(phi), estimator)), randomness="different")(
        law.phi.expand(ROWS, *law.phi.shape)
    )
    assert largest_z(found, exact(law)[1]) < Z


@pytest.mark.parametrize("estimator", STEPS, ids=str)
def test_what_has_no_order_or_is_not_known_is_refused(estimator: sp.Estimator) -> None:
    learned = NegativeBinomial(torch.ones(3, requires_grad=True), logits=torch.zeros(3))
    for dist, fix in (
        (
            OneHotCategorical(logits=torch.zeros(3)),
            "needs outcomes in an order; got OneHotCategorical. Use Categorical",
        ),
        (Normal(torch.zeros(3), 1.0), "got Normal. Use ScoreFunction"),
        (learned, "needs a total_count without gradient for NegativeBinomial; .* or detach total_count"),
    ):
        with pytest.raises(TypeError, match=f"{estimator.name} .*{fix}"):
            sp.expect(lambda x: x.sum(-1), dist, estimator)
    dist = Poisson(torch.ones(3))
    draw = estimator.propose(dist)
    with pytest.raises(ValueError, match="needs the costs of its probes too; got none"):
        estimator.combine(dist, draw, draw.points)


# Each is a wrong rate of NegativeBinomial: without the coordinate's own count, and with the sign of Geometric.
RATE_MUTANTS = {"without x": (lambda w, x: w * 0.7 / (x + 0.7), 1.0), "sign flipped": (lambda w, x: w, -1.0)}


@pytest.mark.parametrize("mutant", RATE_MUTANTS)
def test_wrong_rates_are_seen(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_weight, sign = RATE_MUTANTS[mutant]
    law = LAWS["negative binomial by probs"]

    def wrong(variables: families.Variables, x: Tensor) -> Jumps:
        right = jumps(variables, x)
        return Jumps(right.neighbours, wrong_weight(right.weights, x.unsqueeze(-1)), sign * right.directions)

    monkeypatch.setattr("sampleprop.estimators.coupled.jumps.jumps", wrong)
    _, gradients = replicates(GOGradient(), law)
    assert largest_z(gradients, exact(law)[1]) > Z + 3
