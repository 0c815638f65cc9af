"""What every estimator promises, for every variant of the register and every kind of random variable that it takes."""

from __future__ import annotations

import copy
import io
import math
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributions as td
from torch import Generator, Tensor, nn
from torch.func import grad, vmap
from torch.utils.checkpoint import checkpoint

import sampleprop as sp
from certificates.kinds import (
    BITS,
    CLASSES,
    GAMMA,
    INTEGERS,
    KINDS,
    NORMAL,
    ONE_BIT,
    ONE_HOTS,
    POISSON,
    Case,
    Kind,
    cases,
    cost,
    estimate,
    gradients,
    takes,
    theta,
)
from robustness.subject import unchecked
from sampleprop import families, noise
from variants import VARIANTS

BATCH = 5


def _name(value: Any) -> str:
    return value.label if isinstance(value, sp.Estimator) else str(value)


def over(those: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("variant", "kind"), those, ids=_name)


def _free(variant: sp.Estimator[Any]) -> bool:
    """Whether the variant is of any shape: a control variate of known mean is a function for one shape."""
    return not any(isinstance(module, sp.KnownMean) for module in variant.modules())


def _attached(variant: sp.Estimator[Any], kind: Kind) -> bool:
    """Whether the points carry a path to φ."""
    return variant.propose(kind.dist(kind.phi(2))).points.requires_grad


def _tensors(draw: Any) -> Iterator[Tensor]:
    return (field for field in draw if isinstance(field, Tensor))


CASES = [(variant, kind) for variant, kind in cases() if _free(variant) or kind is not ONE_BIT]
FREE = [(variant, kind) for variant, kind in CASES if _free(variant)]
ATTACHED = [case for case in CASES if _attached(*case)]
DETACHED = [case for case in CASES if case not in ATTACHED]
FIRST = {variant: next(kind for owner, kind in CASES if owner is variant) for variant, _ in CASES}
EACH = list(FIRST.items())  # each variant once
# torch's own refusal of the second derivative of Gamma samples comes first, see the test for it.
FIRST_ORDER = [(variant, kind) for variant, kind in CASES if variant.order(kind.dist(kind.phi(2))) < 2]
FIRST_ORDER = [case for case in FIRST_ORDER if case not in ATTACHED or case[1] is not GAMMA]


def tell(variant: sp.Estimator[Any], kind: Kind, phi: Tensor, draw: Any, costs: Tensor | None = None) -> Tensor:
    """The second half of `expect`, by hand."""
    dist = kind.dist(phi)
    weights, event_ndim = theta(), len(dist.event_shape)

    def f(x: Tensor) -> Tensor:
        return cost(x, weights, event_ndim)

    costs = f(draw.points) if costs is None else costs
    probe_costs = None if draw.probes is None else f(draw.probes)
    return variant.combine(dist, draw, costs, probe_costs=probe_costs, relaxed_f=f)


# --- the result ---------------------------------------------------------------------------------------------------


@over(CASES)
def test_result_has_the_batch_shape_and_finite_gradients(variant: sp.Estimator[Any], kind: Kind) -> None:
    phi, weights = kind.phi(BATCH), theta()
    value = estimate(variant, kind, phi, weights)
    assert value.shape == (BATCH,)
    assert value.dtype == torch.float32
    assert value.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients(value, phi, weights))


@pytest.mark.parametrize("batch", [(), (2, 3)], ids=str)
@over(FREE)
def test_any_batch_shape(variant: sp.Estimator[Any], kind: Kind, batch: tuple[int, ...]) -> None:
    phi = kind.phi(*batch)
    value = estimate(variant, kind, phi, theta())
    (gradient,) = gradients(value, phi)
    assert value.shape == batch
    assert gradient.isfinite().all()


@over(CASES)
def test_empty_batch(variant: sp.Estimator[Any], kind: Kind) -> None:
    phi, weights = kind.phi(0), theta()
    with unchecked():
        value = estimate(variant, kind, phi, weights)
    assert value.shape == (0,)
    by_phi, by_theta = gradients(value, phi, weights)
    assert by_phi.shape == phi.shape
    assert torch.equal(by_theta, torch.zeros(2))


@over(CASES)
def test_rows_of_a_batch_are_separate(variant: sp.Estimator[Any], kind: Kind) -> None:
    """The cost of one row moves neither value nor gradient of another."""
    phi, weights = kind.phi(BATCH), theta()
    event_ndim = len(kind.dist(phi).event_shape)

    def result(factor: Tensor) -> tuple[Tensor, Tensor]:
        value = sp.expect(
            lambda x: factor * cost(x, weights, event_ndim),
            kind.dist(phi),
            variant,
            generator=Generator().manual_seed(0),
        )
        return value, gradients(value, phi)[0]

    plain, changed = result(torch.ones(BATCH)), result(torch.ones(BATCH).index_fill(0, torch.tensor(2), 7.0))
    others = torch.arange(BATCH) != 2
    torch.testing.assert_close(plain[0][others], changed[0][others])
    torch.testing.assert_close(plain[1][others], changed[1][others])
    assert not torch.equal(plain[0][2], changed[0][2])


# --- draws --------------------------------------------------------------------------------------------------------


@over(CASES)
def test_draw_is_detached_where_f_may_be_a_black_box(variant: sp.Estimator[Any], kind: Kind) -> None:
    draw = variant.propose(kind.dist(kind.phi(BATCH)))
    attached = [field for field in _tensors(draw) if field.requires_grad]
    assert all(field is draw.points for field in attached)
    assert not attached or variant.needs != "black box"


@over([(variant, kind) for variant, kind in CASES if variant.exact_forward])
def test_points_are_true_samples(variant: sp.Estimator[Any], kind: Kind) -> None:
    dist = kind.dist(kind.phi(BATCH))
    points = variant.propose(dist).points
    assert points.dtype == dist.sample().dtype
    assert points.shape[1:] == dist.batch_shape + dist.event_shape
    assert dist.log_prob(points).isfinite().all()
    assert families.unwrap(dist)[0].support.check(points).all()


@over(CASES)
def test_same_generator_state_same_result(variant: sp.Estimator[Any], kind: Kind) -> None:
    results = []
    for global_seed in (0, 1):
        torch.manual_seed(global_seed)
        phi, weights = kind.phi(BATCH), theta()
        value = estimate(variant, kind, phi, weights, seed=7)
        results.append((value, *gradients(value, phi, weights)))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@over(CASES)
def test_generator_leaves_the_global_random_state_alone(variant: sp.Estimator[Any], kind: Kind) -> None:
    before = torch.get_rng_state()
    estimate(variant, kind, kind.phi(BATCH), theta()).sum().backward()
    assert torch.equal(before, torch.get_rng_state())


@over(CASES)
def test_ask_and_tell_is_expect(variant: sp.Estimator[Any], kind: Kind) -> None:
    phi = kind.phi(BATCH)
    by_hand = tell(variant, kind, phi, variant.propose(kind.dist(phi), generator=Generator().manual_seed(3)))
    at_once = estimate(variant, kind, phi, theta(), seed=3)
    torch.testing.assert_close(by_hand, at_once)
    torch.testing.assert_close(*(gradients(value, phi)[0] for value in (by_hand, at_once)))


@over(DETACHED)
def test_draw_survives_no_grad_saving_and_pickling(variant: sp.Estimator[Any], kind: Kind) -> None:
    phi = kind.phi(BATCH)
    draw = variant.propose(kind.dist(phi), generator=Generator().manual_seed(3))
    with torch.no_grad():
        quiet = variant.propose(kind.dist(phi), generator=Generator().manual_seed(3))
    file = io.BytesIO()
    torch.save(draw, file)
    file.seek(0)
    others = [quiet, torch.load(file, weights_only=False), pickle.loads(pickle.dumps(draw))]
    expected = tell(variant, kind, phi, draw)
    (expected_gradient,) = gradients(expected, phi)
    for other in others:
        found = tell(variant, kind, phi, other)
        assert torch.equal(expected, found)
        assert torch.equal(expected_gradient, gradients(found, phi)[0])


@over(ATTACHED)
def test_points_that_lost_their_path_are_refused(variant: sp.Estimator[Any], kind: Kind) -> None:
    phi = kind.phi(BATCH)
    with torch.no_grad():
        draw = variant.propose(kind.dist(phi))
    with pytest.raises(RuntimeError, match=f"{variant.name} needs points that are attached to φ"):
        tell(variant, kind, phi, draw)


@over(CASES)
def test_combine_is_deterministic_and_changes_nothing(variant: sp.Estimator[Any], kind: Kind) -> None:
    estimator = copy.deepcopy(variant).train()
    state = copy.deepcopy(estimator.state_dict())
    phi = kind.phi(BATCH)
    draw = variant.propose(kind.dist(phi))
    kept = [field.detach().clone() for field in _tensors(draw)]
    random_state = torch.get_rng_state()
    first, second = tell(estimator, kind, phi, draw), tell(estimator, kind, phi, draw)
    assert torch.equal(first, second)
    again = torch.autograd.grad(first.sum(), phi, retain_graph=True)[0]
    assert torch.equal(again, gradients(second, phi)[0])
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(torch.equal(*pair) for pair in zip(kept, _tensors(draw), strict=True))
    assert all(torch.equal(state[key], now) for key, now in estimator.state_dict().items())


# --- the module ---------------------------------------------------------------------------------------------------


@over(EACH)
def test_copies_are_the_same_estimator(variant: sp.Estimator[Any], kind: Kind) -> None:
    fresh = copy.deepcopy(variant)
    fresh.load_state_dict(variant.state_dict())
    phi = kind.phi(BATCH)
    expected = estimate(variant, kind, phi, theta())
    (expected_gradient,) = gradients(expected, phi)
    for other in (copy.deepcopy(variant), pickle.loads(pickle.dumps(variant)), fresh):
        assert other.label == variant.label
        found = estimate(other, kind, phi, theta())
        assert torch.equal(expected, found)
        assert torch.equal(expected_gradient, gradients(found, phi)[0])


@pytest.mark.parametrize("estimator", sp.REGISTER, ids=lambda estimator: estimator.__name__)
def test_built_without_arguments_it_has_its_plain_name(estimator: type[sp.Estimator[Any]]) -> None:
    assert repr(estimator()) == f"{estimator.__name__}()"
    assert getattr(sp, estimator.__name__) is estimator


def test_labels_tell_variants_apart() -> None:
    labels = [variant.label for variant in VARIANTS]
    assert len(labels) == len(set(labels))
    assert all(repr(variant) == variant.label for variant in VARIANTS)


LEARNING = [(variant, kind) for variant, kind in CASES if variant.learns]


@over(LEARNING)
def test_training_leaves_the_gradient_alone(variant: sp.Estimator[Any], kind: Kind) -> None:
    """The loss of the control variate reaches neither φ nor θ, and in eval mode there is none."""
    training, phi, weights = copy.deepcopy(variant).train(), kind.phi(BATCH), theta()
    found, expected = (
        (value, *gradients(value, phi, weights))
        for value in (estimate(estimator, kind, phi, weights) for estimator in (training, variant))
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    parameters = [parameter for parameter in variant.parameters() if parameter.requires_grad]
    in_eval = torch.autograd.grad(estimate(variant, kind, phi, weights).sum(), parameters, allow_unused=True)
    assert all(gradient is None for gradient in in_eval)


@over(LEARNING)
def test_maximizing_trains_the_same_way(variant: sp.Estimator[Any], kind: Kind) -> None:
    training, phi, weights = copy.deepcopy(variant).train(), kind.phi(BATCH), theta()
    parameters = [parameter for parameter in training.parameters() if parameter.requires_grad]
    down = torch.autograd.grad(estimate(training, kind, phi, weights).sum(), parameters)
    up = torch.autograd.grad(-2 * estimate(training, kind, phi, weights).sum(), parameters)
    assert any(gradient.abs().max() > 0 for gradient in down)
    for one, other in zip(down, up, strict=True):
        torch.testing.assert_close(2 * one, other)


@over([(variant, kind) for variant, kind in EACH if variant.learns])
def test_a_step_of_training_lowers_the_variance(variant: sp.Estimator[Any], kind: Kind) -> None:
    """On the same noise: what falls is the squared gradient, whose mean is the variance and a constant."""
    training, phi, weights = copy.deepcopy(variant).train(), kind.phi(1), theta()
    phi = phi.detach().expand(20_000, *phi.shape[1:]).requires_grad_()

    def square(estimator: sp.Estimator[Any]) -> float:
        return gradients(estimate(estimator, kind, phi, weights), phi)[0].square().sum().item() / len(phi)

    before = square(training)
    parameters = [parameter for parameter in training.parameters() if parameter.requires_grad]
    steps = torch.autograd.grad(estimate(training, kind, phi, weights).mean(), parameters)
    norm = math.sqrt(sum(step.square().sum().item() for step in steps))
    with torch.no_grad():
        for parameter, step in zip(parameters, steps, strict=True):
            parameter -= 0.01 / norm * step
    assert square(training) < before


# --- transformations of the program -------------------------------------------------------------------------------


@over([(variant, kind) for variant, kind in FREE if kind not in (GAMMA, POISSON)])
def test_vmap(variant: sp.Estimator[Any], kind: Kind) -> None:
    """With the same noise in every copy, `vmap` gives what a loop gives. (torch's own samplers cannot do that.)"""
    phi, weights, event_ndim = kind.phi(4).detach(), theta().detach(), len(kind.dist(kind.phi()).event_shape)

    def one(phi: Tensor) -> Tensor:
        return sp.expect(lambda x: cost(x, weights, event_ndim), kind.dist(phi), variant)

    torch.manual_seed(1)
    mapped = vmap(grad(one), randomness="same")(phi)
    looped = []
    for row in phi:
        torch.manual_seed(1)
        looped.append(grad(one)(row))
    torch.testing.assert_close(mapped, torch.stack(looped))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's, on its Gamma sampler
@over(FREE)
def test_vmap_with_different_noise(variant: sp.Estimator[Any], kind: Kind) -> None:
    phi, weights, event_ndim = kind.phi(4).detach(), theta().detach(), len(kind.dist(kind.phi()).event_shape)

    def one(phi: Tensor) -> Tensor:
        return sp.expect(lambda x: cost(x, weights, event_ndim), kind.dist(phi), variant)

    value, gradient = vmap(lambda phi: (one(phi), grad(one)(phi)), randomness="different")(phi)
    assert value.shape == (4,)
    assert gradient.shape == phi.shape
    assert value.isfinite().all()
    assert gradient.isfinite().all()


@over(FREE)
def test_functional_gradient(variant: sp.Estimator[Any], kind: Kind) -> None:
    phi, weights = kind.phi(BATCH), theta().detach()
    event_ndim = len(kind.dist(phi).event_shape)

    def total(phi: Tensor) -> Tensor:
        torch.manual_seed(1)
        return sp.expect(lambda x: cost(x, weights, event_ndim), kind.dist(phi), variant).sum()

    torch.testing.assert_close(grad(total)(phi.detach()), gradients(total(phi), phi)[0])


# The first variant of each estimator on one-hots, the others on their last kind.
LEADING = [next(variant for variant in VARIANTS if type(variant) is estimator) for estimator in sp.REGISTER]
LAST = {variant: kind for variant, kind in CASES}  # noqa: C416  the last kind of each
COMPILED = [
    (variant, kind)
    for variant, kind in CASES
    if variant.compiles is True
    if kind is (CLASSES if variant in LEADING else LAST[variant])
    if variant not in LEADING or kind is not FIRST[variant]  # that is a cell of the robustness matrix
]


@over(COMPILED)
def test_compiles_in_one_piece(variant: sp.Estimator[Any], kind: Kind) -> None:
    def step(phi: Tensor, weights: Tensor) -> Tensor:
        dist = kind.dist(phi)
        return sp.expect(lambda x: cost(x, weights, len(dist.event_shape)), dist, training)

    training = copy.deepcopy(variant).train()
    results = []
    torch._dynamo.reset()
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(1)
        phi, weights = kind.phi(BATCH), theta()
        value = function(phi, weights)
        results.append((value, *gradients(value, phi, weights)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("variant", VARIANTS, ids=_name)
def test_says_why_it_does_not_compile(variant: sp.Estimator[Any]) -> None:
    assert variant.compiles is True or len(variant.compiles) > 10


@over(CASES)
def test_inside_activation_checkpointing(variant: sp.Estimator[Any], kind: Kind) -> None:
    """The draw is made twice, the first time without gradients, with the same noise."""
    phi, weights = kind.phi(BATCH), theta()
    event_ndim = len(kind.dist(phi).event_shape)

    def block(phi: Tensor) -> Tensor:
        return sp.expect(lambda x: cost(x, weights, event_ndim), kind.dist(phi), variant)

    torch.manual_seed(1)
    expected = block(phi)
    torch.manual_seed(1)
    found = checkpoint(block, phi, use_reentrant=False)
    assert torch.equal(expected, found)
    torch.testing.assert_close(
        *(torch.cat([g.flatten() for g in gradients(v, phi, weights)]) for v in (found, expected))
    )


@over(CASES)
def test_autocast(variant: sp.Estimator[Any], kind: Kind) -> None:
    phi, layer = kind.phi(BATCH), nn.Linear(1, 1)
    event_ndim = len(kind.dist(phi).event_shape)

    def f(x: Tensor) -> Tensor:
        return layer(cost(x, theta().detach(), event_ndim).unsqueeze(-1)).squeeze(-1)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = sp.expect(f, kind.dist(phi), variant)
    by_phi, by_weight = gradients(value, phi, layer.weight)
    assert value.dtype == torch.float32
    assert by_phi.isfinite().all()
    assert by_weight.abs().min() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@over([(variant, kind) for variant, kind in CASES if kind is not GAMMA])  # which torch draws in full precision only
def test_parameters_of_other_precision(variant: sp.Estimator[Any], kind: Kind, dtype: torch.dtype) -> None:
    phi, weights = kind.phi(BATCH, dtype=dtype), theta(dtype)
    value = estimate(variant, kind, phi, weights)
    by_phi, by_theta = gradients(value, phi, weights)
    assert value.dtype == noise.working_dtype(dtype)
    assert (by_phi.dtype, by_theta.dtype) == (dtype, dtype)
    assert by_phi.isfinite().all()
    assert by_theta.isfinite().all()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=lambda mode: mode.__name__)
@over(CASES)
def test_without_gradients(variant: sp.Estimator[Any], kind: Kind, mode: Callable[[], Any]) -> None:
    with mode():
        value = estimate(variant, kind, kind.phi(BATCH), theta())
    assert not value.requires_grad
    torch.testing.assert_close(value.clone(), estimate(variant, kind, kind.phi(BATCH), theta()).detach())


@over(EACH)
def test_context_is_accepted(variant: sp.Estimator[Any], kind: Kind) -> None:
    value = estimate(variant, kind, kind.phi(BATCH), theta(), context=torch.randn(BATCH, 2))
    assert value.shape == (BATCH,)


# --- logits at the edge -------------------------------------------------------------------------------------------

INF = math.inf
# Logits, and the value of each masked coordinate (NaN where it is free).
MASKED = {
    BITS: ([INF, 0.3, -INF], [1.0, math.nan, 0.0]),
    CLASSES: ([-INF, 0.2, -INF, 0.5], [0.0, math.nan, 0.0, math.nan]),
    ONE_HOTS: ([[-INF, 0.2, 0.5], [-INF, 0.1, -INF]], [[0.0, math.nan, math.nan], [0.0, 1.0, 0.0]]),
}
WITH_MASKS = [(variant, kind) for variant, kind in CASES if kind in MASKED]


@over(WITH_MASKS)
def test_impossible_outcomes_are_never_shown_to_f(variant: sp.Estimator[Any], kind: Kind) -> None:
    logits, fixed = (torch.tensor(numbers) for numbers in MASKED[kind])
    phi = logits.expand(BATCH, *logits.shape).clone().requires_grad_()
    masked = ~fixed.isnan()
    seen = []

    def f(x: Tensor) -> Tensor:
        seen.append(x.detach()[..., masked])
        return cost(x, theta(), len(kind.shape))

    value = sp.expect(f, kind.dist(phi), variant)
    (gradient,) = gradients(value, phi)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    for points in seen:
        assert torch.equal(points, fixed[masked].expand_as(points))


@over([(variant, kind) for variant, kind in CASES if kind is INTEGERS])
def test_impossible_integers_are_never_shown_to_f(variant: sp.Estimator[Any], kind: Kind) -> None:
    logits = torch.tensor([[-INF, 0.2, 0.5], [-INF, 0.1, -INF]])
    phi = logits.expand(BATCH, 2, 3).clone().requires_grad_()
    seen = []

    def f(x: Tensor) -> Tensor:
        seen.append(x)
        return cost(x, theta(), 1)

    value = sp.expect(f, kind.dist(phi), variant)
    (gradient,) = gradients(value, phi)
    assert gradient.isfinite().all()
    assert gradient[:, logits.isinf()].abs().max() == 0
    for points in seen:
        assert (points[..., 0] > 0).all()
        assert (points[..., 1] == 1).all()


SATURATED = [(variant, kind) for variant, kind in CASES if kind in (BITS, ONE_BIT, CLASSES, ONE_HOTS, INTEGERS)]


@pytest.mark.parametrize("size", [20.0, 1e4])
@over(SATURATED)
def test_saturated_logits_stay_finite(variant: sp.Estimator[Any], kind: Kind, size: float) -> None:
    signs = torch.randn(64, *kind.shape, generator=Generator().manual_seed(2)).sign()
    phi, weights = (size * signs).requires_grad_(), theta()
    value = estimate(variant, kind, phi, weights)
    assert value.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients(value, phi, weights))


BY_PROBS: dict[Kind, Callable[[Tensor], td.Distribution]] = {
    BITS: lambda probs: td.Independent(td.Bernoulli(probs=probs), 1),
    CLASSES: lambda probs: td.OneHotCategorical(probs=probs),
    INTEGERS: lambda probs: td.Independent(td.Categorical(probs=probs), 1),
}
CERTAIN = {BITS: [0.0, 1.0, 0.5], CLASSES: [0.0, 0.5, 0.0, 0.5], INTEGERS: [[0.0, 1.0, 0.0], [0.2, 0.3, 0.5]]}
WITH_PROBS = [(variant, kind) for variant, kind in CASES if kind in BY_PROBS]


@over(WITH_PROBS)
def test_certain_probabilities_without_gradient(variant: sp.Estimator[Any], kind: Kind) -> None:
    probs = torch.tensor(CERTAIN[kind])
    dist = BY_PROBS[kind](probs.expand(BATCH, *probs.shape))
    weights = theta()
    value = sp.expect(lambda x: cost(x, weights, len(dist.event_shape)), dist, variant)
    (gradient,) = gradients(value, weights)
    assert value.isfinite().all()
    assert gradient.isfinite().all()


# --- what f may do ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "fix"),
    [
        (lambda costs: costs.mean(0), "nothing is broadcast"),
        (lambda costs: torch.stack([costs] * 9, -1), "Sum the dimensions after the batch"),
    ],
    ids=["reduced over the samples", "nine numbers for a point"],
)
def test_further_shapes_are_refused(change: Callable[[Tensor], Tensor], fix: str) -> None:
    """Those that the robustness matrix tries with every estimator are left out."""
    with pytest.raises(ValueError, match=rf"ScoreFunction needs one cost for each point.*{fix}"):
        sp.expect(lambda x: change(x.sum(-1)), BITS.dist(BITS.phi(67)), sp.ScoreFunction(2))


def test_costs_with_the_event_left_are_refused() -> None:
    dist = BITS.dist(BITS.phi(BATCH))
    with pytest.raises(ValueError, match=r"Sum the cost over the event: return cost\.sum\(\[-1\]\)"):
        sp.expect(lambda x: x, dist, sp.ScoreFunction())


@over(EACH)
def test_a_draw_for_another_shape_is_refused(variant: sp.Estimator[Any], kind: Kind) -> None:
    draw = variant.propose(kind.dist(kind.phi(BATCH)))
    with pytest.raises(ValueError, match=f"{variant.name} needs points .* Combine with a distribution of the shape"):
        tell(variant, kind, kind.phi(BATCH + 1), draw)


def _spoiled(costs: Tensor, spoil: float) -> Tensor:
    """Row 2 of the first sample is not finite."""
    where = torch.zeros_like(costs, dtype=torch.bool)
    where[0, 2] = True
    return torch.where(where, spoil, costs)


@over(DETACHED)
def test_nonfinite_costs_stay_in_their_row(variant: sp.Estimator[Any], kind: Kind) -> None:
    phi = kind.phi(BATCH)
    event_ndim = len(kind.dist(phi).event_shape)
    value = sp.expect(
        lambda x: _spoiled(cost(x, theta(), event_ndim), math.nan), kind.dist(phi), variant, nonfinite="propagate"
    )
    (gradient,) = gradients(value, phi)
    others = torch.arange(BATCH) != 2
    assert value[2].isnan()
    assert value[others].isfinite().all()
    assert gradient[others].isfinite().all()


def _drops(variant: sp.Estimator[Any], kind: Kind) -> bool:
    """Whether the variant can leave samples out, when one is told."""
    try:
        estimate(variant, kind, kind.phi(BATCH), theta(), nonfinite="drop")
    except ValueError as refusal:
        assert "its samples make sense only together" in str(refusal)  # noqa: PT017  any other refusal is an error
        return False
    return True


def _with_more_samples(variant: sp.Estimator[Any]) -> sp.Estimator[Any]:
    several = copy.deepcopy(variant)
    several.samples = 4 * several.samples_step
    return several


DROPPING = [(_with_more_samples(variant), kind) for variant, kind in EACH if _drops(variant, kind)]


@over(DROPPING)
def test_dropped_costs_do_not_count(variant: sp.Estimator[Any], kind: Kind) -> None:
    """Whatever stood in the place of the cost, the result is the same and finite. (That it is right: certificates.)"""
    phi = kind.phi(BATCH)
    dist = kind.dist(phi)
    results = []
    for spoil in (math.nan, INF):
        first = True

        def f(x: Tensor) -> Tensor:
            nonlocal first
            costs = cost(x, theta(), len(dist.event_shape))
            costs, first = (_spoiled(costs, spoil) if first else costs), False  # noqa: B023  called in this round
            return costs

        value = sp.expect(f, dist, variant, nonfinite="drop", generator=Generator().manual_seed(0))
        results.append((value, *torch.autograd.grad(value.sum(), phi, retain_graph=True)))
    for one, other in zip(*results, strict=True):
        assert one.isfinite().all()
        assert torch.equal(one, other)


BLACK_BOX = [(variant, kind) for variant, kind in CASES if variant.needs == "black box"]


@over(BLACK_BOX)
def test_f_outside_torch(variant: sp.Estimator[Any], kind: Kind) -> None:
    phi = kind.phi(BATCH)
    dist = kind.dist(phi)
    event = tuple(range(-len(dist.event_shape), 0))
    value = sp.expect(lambda x: (x.numpy() ** 2).sum(event) if event else x.numpy() ** 2, dist, variant)
    (gradient,) = gradients(value, phi)
    assert value.shape == (BATCH,)
    assert gradient.isfinite().all()


@over([case for case in BLACK_BOX if case[0].objective == "mean"])
def test_f_that_ignores_x(variant: sp.Estimator[Any], kind: Kind) -> None:
    phi, weights = kind.phi(BATCH), theta()
    value = sp.expect(lambda x: weights.sum().expand(x.shape[0], BATCH), kind.dist(phi), variant)
    by_phi, by_theta = gradients(value, phi, weights)
    torch.testing.assert_close(value.sum(), BATCH * weights.sum())
    torch.testing.assert_close(by_theta, torch.full((2,), float(BATCH)))
    assert by_phi.isfinite().all()


@over([(v, kind) for v, kind in EACH if hasattr(v, "allow_unused") and v.objective == "mean"])
def test_f_with_no_path_to_x_is_allowed_when_told(variant: sp.Estimator[Any], kind: Kind) -> None:
    told, phi, weights = copy.deepcopy(variant), kind.phi(BATCH), theta()
    told.allow_unused = True
    value = sp.expect(lambda x: weights.sum().expand(x.shape[0], BATCH), kind.dist(phi), told)
    by_phi, by_theta = gradients(value, phi, weights)
    assert by_phi.abs().max() == 0
    torch.testing.assert_close(by_theta, torch.full((2,), float(BATCH)))


# --- θ gets only its own gradient ---------------------------------------------------------------------------------


@over(CASES)
def test_theta_hears_of_the_costs_only(variant: sp.Estimator[Any], kind: Kind) -> None:
    """∇_θ is the chain rule through the costs of `draw.points`: nothing comes from relaxed points, probes or noise."""
    phi, weights = kind.phi(BATCH), theta()
    dist = kind.dist(phi)
    draw = variant.propose(dist, generator=Generator().manual_seed(0))
    costs = cost(draw.points.detach(), weights, len(dist.event_shape))
    told = cost(draw.points, theta().detach(), len(dist.event_shape))
    leaf = torch.zeros_like(told).requires_grad_()
    (share,) = gradients(tell(variant, kind, phi, draw, told + leaf), leaf)
    (expected,) = torch.autograd.grad(costs, weights, share)
    (found,) = gradients(estimate(variant, kind, phi, weights), weights)
    torch.testing.assert_close(found, expected)


def _shares(variant: sp.Estimator[Any], kind: Kind) -> Tensor:
    """The weight of each cost in the value."""
    phi = kind.phi(BATCH)
    draw = variant.propose(kind.dist(phi), generator=Generator().manual_seed(0))
    told = cost(draw.points, theta().detach(), len(kind.dist(phi).event_shape))
    leaf = torch.zeros_like(told).requires_grad_()
    return gradients(tell(variant, kind, phi, draw, told + leaf), leaf)[0]


EVEN = [case for case in CASES if case[0].exact_forward and bool((_shares(*case).diff(dim=0).abs() < 1e-7).all())]


@over(EVEN)
def test_gradient_by_theta_is_the_mean_over_the_points(variant: sp.Estimator[Any], kind: Kind) -> None:
    phi, weights = kind.phi(BATCH), theta()
    dist = kind.dist(phi)
    points = variant.propose(dist, generator=Generator().manual_seed(5)).points.detach()
    (expected,) = gradients(cost(points, weights, len(dist.event_shape)).mean(0), weights)
    (found,) = gradients(estimate(variant, kind, phi, weights, seed=5), weights)
    torch.testing.assert_close(found, expected)


def test_most_estimators_weigh_their_samples_evenly() -> None:
    assert len(EVEN) > len(CASES) / 2


@over([(v, kind) for v, kind in CASES if v.exact_forward and kind in (BITS, ONE_BIT, CLASSES, ONE_HOTS)])
def test_relaxed_points_do_not_leak_into_theta(variant: sp.Estimator[Any], kind: Kind) -> None:
    """A term that vanishes at every true sample, x (1 - x), gives θ nothing at all."""
    phi, weight = kind.phi(BATCH), torch.ones((), requires_grad=True)
    event = tuple(range(-len(kind.shape), 0))

    def f(x: Tensor) -> Tensor:
        between = x * (1 - x)
        return cost(x, theta().detach(), len(kind.shape)) + weight * (between.sum(event) if event else between)

    (gradient,) = gradients(sp.expect(f, kind.dist(phi), variant), weight)
    assert gradient == 0


# --- derivatives above the first ----------------------------------------------------------------------------------

REFUSED = "estimates first derivatives only; got a derivative of its gradient"


@over(FIRST_ORDER)
def test_second_derivative_by_phi_is_refused(variant: sp.Estimator[Any], kind: Kind) -> None:
    phi, weights = kind.phi(BATCH), theta()
    (first,) = torch.autograd.grad(estimate(variant, kind, phi, weights).sum(), phi, create_graph=True)
    with pytest.raises(RuntimeError, match=f"{variant.name} {REFUSED}"):
        torch.autograd.grad(first.square().sum(), phi)


@over(FIRST_ORDER)
def test_mixed_derivative_is_refused(variant: sp.Estimator[Any], kind: Kind) -> None:
    phi, weights = kind.phi(BATCH), theta()
    (first,) = torch.autograd.grad(estimate(variant, kind, phi, weights).sum(), phi, create_graph=True)
    with pytest.raises(RuntimeError, match=f"{variant.name} {REFUSED}"):
        torch.autograd.grad(first.sum(), weights)


@over([case for case in FIRST_ORDER if case in DETACHED])
def test_mixed_derivative_the_other_way_is_refused(variant: sp.Estimator[Any], kind: Kind) -> None:
    phi, weights = kind.phi(BATCH), theta()
    (first,) = torch.autograd.grad(estimate(variant, kind, phi, weights).sum(), weights, create_graph=True)
    with pytest.raises(RuntimeError, match=f"{variant.name} {REFUSED}"):
        torch.autograd.grad(first.sum(), phi)


@over(FIRST_ORDER)
def test_second_derivative_behind_an_encoder_is_refused(variant: sp.Estimator[Any], kind: Kind) -> None:
    """The chain rule through tanh alone would give something, and it would be wrong."""
    inputs, weights = kind.phi(BATCH), theta()
    value = estimate(variant, kind, 2 * inputs.tanh(), weights)
    (first,) = torch.autograd.grad(value.sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match=f"{variant.name} {REFUSED}"):
        torch.autograd.grad(first.sum(), inputs)


@over([case for case in ATTACHED if case[1] is GAMMA])
def test_second_derivative_of_gamma_samples_is_refused(variant: sp.Estimator[Any], kind: Kind) -> None:
    phi, weights = kind.phi(BATCH), theta()
    (first,) = torch.autograd.grad(estimate(variant, kind, phi, weights).sum(), phi, create_graph=True)
    with pytest.raises(RuntimeError, match=r"not implemented|first derivatives only"):
        torch.autograd.grad(first.square().sum(), phi)


@over([case for case in FIRST_ORDER if _free(case[0]) and case[1] is not GAMMA])
def test_second_derivative_under_functional_transforms_is_refused(variant: sp.Estimator[Any], kind: Kind) -> None:
    phi, weights = kind.phi(3).detach(), theta().detach()
    event_ndim = len(kind.dist(phi).event_shape)

    def one(phi: Tensor) -> Tensor:
        return sp.expect(lambda x: cost(x, weights, event_ndim), kind.dist(phi), variant)

    def slope(phi: Tensor) -> Tensor:
        return grad(one)(phi).square().sum()

    with pytest.raises(RuntimeError, match=f"{variant.name} {REFUSED}"):
        grad(slope)(phi[0])
    with pytest.raises(RuntimeError, match=f"{variant.name} {REFUSED}"):
        vmap(grad(slope), randomness="different")(phi)


def _as_function_of_costs(variant: sp.Estimator[Any], kind: Kind) -> Callable[[Tensor], Tensor]:
    """The value at the points of seed 0, by the costs there."""
    if variant.objective == "log-mean-exp":
        dist = kind.dist(kind.phi(BATCH))
        points = variant.propose(dist, generator=Generator().manual_seed(0)).points
        log_q = families.log_prob(dist, points).detach()
        return lambda costs: (costs - log_q).logsumexp(0)
    share = _shares(variant, kind)
    return lambda costs: (share * costs).sum(0)


@over(FIRST_ORDER)
def test_second_derivative_by_theta_is_right(variant: sp.Estimator[Any], kind: Kind) -> None:
    phi, weights = kind.phi(BATCH), theta()
    dist = kind.dist(phi)

    def second(value: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(value, weights, create_graph=True)
        return torch.autograd.grad(first.square().sum(), weights)[0]

    points = variant.propose(dist, generator=Generator().manual_seed(0)).points.detach()
    expected = second(_as_function_of_costs(variant, kind)(cost(points, weights, len(dist.event_shape))).sum())
    torch.testing.assert_close(second(estimate(variant, kind, phi, weights).sum()), expected)


# --- facts --------------------------------------------------------------------------------------------------------


class _Tap(torch.autograd.Function):
    """Counts the points that a backward pass comes through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        ctx.counts.append(grad_output.shape[0])
        return grad_output, None


@over(CASES)
def test_counts_evaluations_truthfully(variant: sp.Estimator[Any], kind: Kind) -> None:
    phi = kind.phi(BATCH)
    dist = kind.dist(phi)
    forward: list[int] = []
    backward: list[int] = []

    def f(x: Tensor) -> Tensor:
        forward.append(x.shape[0])
        return cost(_Tap.apply(x, backward) if x.requires_grad else x, theta(), len(dist.event_shape))

    gradients(sp.expect(f, dist, variant), phi)
    assert (sum(forward), sum(backward)) == variant.evaluations(dist)


@over(CASES)
def test_for_budget_spends_no_more(variant: sp.Estimator[Any], kind: Kind) -> None:
    dist = kind.dist(kind.phi(BATCH))
    label, own = variant.label, variant.evaluations(dist)[0]
    spent = []
    for budget in range(1, 2 * own + 2):
        configuration = variant.for_budget(dist, budget)
        spent.append(0 if configuration is None else configuration.evaluations(dist)[0])
        assert spent[-1] <= budget
    assert spent == sorted(spent)
    assert spent[own - 1] > 0
    assert variant.label == label


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("variant", VARIANTS, ids=_name)
def test_refusals_say_who_needs_what(variant: sp.Estimator[Any], kind: Kind) -> None:
    dist = kind.dist(kind.phi(BATCH))
    refusal = variant.refusal(dist)
    assert takes(variant, kind) or str(refusal).startswith(f"{variant.name} needs ")


REFUSING = [(variant, kind) for variant in VARIANTS for kind in KINDS if not takes(variant, kind)]


@over(REFUSING)
def test_unsupported_distributions_are_refused(variant: sp.Estimator[Any], kind: Kind) -> None:
    refusal = variant.refusal(kind.dist(kind.phi(BATCH)))
    assert refusal is not None
    assert "; got " in refusal
    assert "Use " in refusal
    with pytest.raises(TypeError) as caught:
        estimate(variant, kind, kind.phi(BATCH), theta())
    assert str(caught.value) == refusal


@pytest.mark.parametrize("variant", VARIANTS, ids=_name)
def test_what_is_no_distribution_is_refused(variant: sp.Estimator[Any]) -> None:
    with pytest.raises(TypeError, match=rf"{variant.name} needs a torch\.distributions object; got Tensor"):
        sp.expect(lambda x: x, torch.zeros(3), variant)  # type: ignore[arg-type]


COUNTED = [estimator for estimator in sp.REGISTER if hasattr(estimator(), "samples")]


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "4"], ids=str)
@pytest.mark.parametrize("estimator", COUNTED, ids=lambda estimator: estimator.__name__)
def test_impossible_numbers_of_samples_are_refused(estimator: type[sp.Estimator[Any]], number: Any) -> None:
    with pytest.raises(ValueError, match=rf"{estimator.__name__} needs .* samples, at least \d; got samples="):
        estimator(number)


@pytest.mark.parametrize("estimator", sp.REGISTER, ids=lambda estimator: estimator.__name__)
def test_facts_are_stated(estimator: type[sp.Estimator[Any]]) -> None:
    instance = estimator()
    assert isinstance(instance.unbiased, bool)
    assert isinstance(instance.exact_forward, bool)
    assert instance.needs in ("black box", "differentiable", "relaxed")
    assert instance.objective in ("mean", "elbo", "log-mean-exp")
    assert 1700 < instance.source.year < 2100
    assert re.match(rf"@(article|inproceedings|misc)\{{{instance.source.key},", instance.source.bibtex())
    for variant in estimator.variants():
        assert type(variant) is estimator


@pytest.mark.parametrize("estimator", sp.REGISTER, ids=lambda estimator: estimator.__name__)
def test_file_names_its_source(estimator: type[sp.Estimator[Any]]) -> None:
    text = sys.modules[estimator.__module__].__doc__ or ""
    assert "\nSource: " in text
    assert "\nDifferences from the paper" in text


# --- refusals of the core, by their wording -----------------------------------------------------------------------


def test_expect_refuses_what_is_no_estimator() -> None:
    with pytest.raises(TypeError, match=r"expect needs an estimator object; got .*Pass sp\.ScoreFunction\(\), say"):
        sp.expect(lambda x: x, td.Normal(0.0, 1.0), sp.ScoreFunction)  # type: ignore[arg-type]


def test_expect_refuses_an_unknown_policy() -> None:
    with pytest.raises(ValueError, match='expect needs nonfinite="raise", "drop" or "propagate"; got \'ignore\''):
        sp.expect(lambda x: x, td.Normal(0.0, 1.0), sp.ScoreFunction(), nonfinite="ignore")  # type: ignore[arg-type]


def test_an_error_in_f_says_where_it_came_from() -> None:
    def f(x: Tensor) -> Tensor:
        raise KeyError("lost")

    with pytest.raises(KeyError, match=r"This came from f, called by ScoreFunction with points of shape \[2, 5, 3\]"):
        sp.expect(f, BITS.dist(BITS.phi(BATCH)), sp.ScoreFunction())


@pytest.mark.parametrize("dist", [td.Uniform(0.0, torch.ones((), requires_grad=True)), td.Pareto(1.0, 2.0)], ids=repr)
def test_score_function_refuses_a_moving_support(dist: td.Distribution) -> None:
    with pytest.raises(TypeError, match=r"ScoreFunction needs a support that does not move .* Use Pathwise"):
        sp.expect(lambda x: x, dist, sp.ScoreFunction())


def test_pathwise_refuses_discrete_variables_and_those_without_rsample() -> None:
    with pytest.raises(TypeError, match="Pathwise needs a continuous distribution; got Bernoulli"):
        sp.expect(lambda x: x, ONE_BIT.dist(ONE_BIT.phi(BATCH)), sp.Pathwise())
    with pytest.raises(TypeError, match="Pathwise needs a distribution with rsample; got VonMises, which has none"):
        sp.expect(lambda x: x, td.VonMises(torch.zeros(()), torch.ones(())), sp.Pathwise())


def test_enumeration_refuses_a_large_support() -> None:
    with pytest.raises(TypeError, match=r"Enumerate needs at most limit=4096 joint states; got 8192\. Raise the limit"):
        sp.expect(lambda x: x.sum(-1), td.Independent(td.Bernoulli(logits=torch.zeros(13)), 1), sp.Enumerate())


@pytest.mark.parametrize("number", [0.0, -1.0, math.nan, INF])
def test_arguments_that_must_be_positive(number: float) -> None:
    with pytest.raises(ValueError, match="REBAR needs temperature above 0; got"):
        sp.REBAR(temperature=number)
    with pytest.raises(ValueError, match="Enumerate needs limit at least 2; got"):
        sp.Enumerate(limit=number)  # type: ignore[arg-type]


def test_even_numbers_of_samples() -> None:
    with pytest.raises(ValueError, match="DisARM needs an even number of samples, at least 2; got samples=3"):
        sp.DisARM(3)


def test_constant_baseline_must_be_finite() -> None:
    with pytest.raises(ValueError, match="Constant needs a finite number; got nan"):
        sp.Constant(math.nan)


def test_known_mean_refuses_other_shapes() -> None:
    dist = BITS.dist(BITS.phi(BATCH))

    def run(b: Any, expectation: Any) -> None:
        sp.expect(lambda x: x.sum(-1), dist, sp.ScoreFunction(1, baseline=sp.KnownMean(b, expectation)))

    with pytest.raises(
        ValueError, match=r"KnownMean needs b\(points\) of shape \[k, \*batch\] = \[1, 5\]; got \[1, 5, 3\]"
    ):
        run(lambda x: x, lambda dist: dist.mean.sum(-1))
    with pytest.raises(ValueError, match=r"KnownMean needs an expectation of shape \[\*batch\] = \[5\]; got \[5, 3\]"):
        run(lambda x: x.sum(-1), lambda dist: dist.mean)


def test_learned_baseline_refuses_a_missing_context_and_other_shapes() -> None:
    dist = BITS.dist(BITS.phi(BATCH))
    estimator = sp.ScoreFunction(1, baseline=sp.LearnedBaseline(nn.Linear(2, 1)))
    with pytest.raises(ValueError, match=r"LearnedBaseline needs the context .* Pass context="):
        sp.expect(lambda x: x.sum(-1), dist, estimator)
    with pytest.raises(
        ValueError, match=r"LearnedBaseline needs one prediction .* shape \[5\]; the network returned \[5, 1\]"
    ):
        sp.expect(lambda x: x.sum(-1), dist, estimator, context=torch.zeros(BATCH, 2))


@over(
    [
        (variant, kind)
        for variant, kind in EACH
        if variant.propose(kind.dist(kind.phi(2))).probes is not None or variant.needs == "relaxed"
        if not _attached(variant, kind)
    ]
)
def test_missing_evaluations_are_asked_for(variant: sp.Estimator[Any], kind: Kind) -> None:
    """Ask and tell by hand, with the costs alone."""
    dist = kind.dist(kind.phi(BATCH))
    draw = variant.propose(dist)
    with pytest.raises(ValueError, match=r"needs .*; got .* Pass (probe_costs|relaxed_f)="):
        variant.combine(dist, draw, cost(draw.points, theta(), len(dist.event_shape)))


def test_unknown_families_are_refused_by_their_helpers() -> None:
    with pytest.raises(
        TypeError, match="This estimator needs Bernoulli, OneHotCategorical or Categorical variables; got Normal"
    ):
        families.variables(td.Normal(0.0, 1.0))
    transformed = td.TransformedDistribution(td.Normal(0.0, 1.0), [td.SigmoidTransform()])
    with pytest.raises(
        TypeError, match="The gradient by the parameters of TransformedDistribution needs a distribution that"
    ):
        families.parameters(transformed)


# --- the default choice -------------------------------------------------------------------------------------------


def test_default_enumerates_a_tiny_support() -> None:
    phi = BITS.phi(BATCH)
    found = sp.expect(lambda x: x.sum(-1).square(), BITS.dist(phi))
    expected = sp.expect(lambda x: x.sum(-1).square(), BITS.dist(phi), sp.Enumerate())
    assert torch.equal(*(gradients(value, phi)[0] for value in (found, expected)))


def test_default_is_pathwise_where_f_is_differentiable() -> None:
    phi = NORMAL.phi(BATCH)
    torch.manual_seed(1)
    found = sp.expect(lambda x: x.sum(-1).square(), NORMAL.dist(phi))
    torch.manual_seed(1)
    expected = sp.expect(lambda x: x.sum(-1).square(), NORMAL.dist(phi), sp.Pathwise())
    assert torch.equal(*(gradients(value, phi)[0] for value in (found, expected)))


@pytest.mark.parametrize("kind", [NORMAL, GAMMA, POISSON], ids=str)
def test_default_is_a_score_function_where_f_is_not(kind: Kind) -> None:
    """f leaves the graph; the gradient still has the right mean, |z| < 5.3 (2e-7 for each of at most 12 coordinates)."""
    phi = kind.phi(1).detach().expand(20_000, *kind.shape).clone().requires_grad_()
    value = sp.expect(lambda x: x.detach().sum(-1).tanh(), kind.dist(phi))
    (gradient,) = gradients(value, phi)
    generator = Generator().manual_seed(0)
    reference = sp.expect(lambda x: x.detach().sum(-1).tanh(), kind.dist(phi), sp.ScoreFunction(4), generator=generator)
    (other,) = gradients(reference, phi)
    z = (gradient - other).mean(0) / ((gradient.var(0) + other.var(0)) / len(phi)).sqrt()
    assert z.abs().max() < 5.3


# --- no global state ----------------------------------------------------------------------------------------------

STATE = """
import warnings, torch

def state():
    return (
        torch.get_default_dtype(), torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(),
        torch.get_rng_state().tolist(), torch.distributions.Distribution._validate_args, torch.get_num_threads(),
        torch.get_float32_matmul_precision(), list(warnings.filters), torch.is_autocast_enabled("cpu"),
    )

before = state()
import sampleprop
assert state() == before
"""


def test_import_changes_nothing_in_torch() -> None:
    result = subprocess.run([sys.executable, "-c", STATE], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
