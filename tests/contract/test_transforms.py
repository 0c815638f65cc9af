"""Every estimator under the transformations of a program: vmap, functional gradients, compilation, checkpointing,
autocast."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.utils.checkpoint import checkpoint

import sampleprop as sp
from contract.cases import BATCH, CASES, EACH, FREE, name, over
from kinds import CLASSES, GAMMA, POISSON, STRUCTURES, Kind, cost, gradients, theta
from variants import VARIANTS


@over([(variant, kind) for variant, kind in FREE if kind not in (GAMMA, POISSON)])
def test_vmap(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
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
def test_vmap_with_different_noise(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    phi, weights, event_ndim = kind.phi(4).detach(), theta().detach(), len(kind.dist(kind.phi()).event_shape)

    def one(phi: Tensor) -> Tensor:
        return sp.expect(lambda x: cost(x, weights, event_ndim), kind.dist(phi), variant)

    value, gradient = vmap(lambda phi: (one(phi), grad(one)(phi)), randomness="different")(phi)
    assert value.shape == (4,)
    assert gradient.shape == phi.shape
    assert value.isfinite().all()
    assert gradient.isfinite().all()


@over(FREE)
def test_functional_gradient(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    phi, weights = kind.phi(BATCH), theta().detach()
    event_ndim = len(kind.dist(phi).event_shape)

    def total(phi: Tensor) -> Tensor:
        torch.manual_seed(1)
        return sp.expect(lambda x: cost(x, weights, event_ndim), kind.dist(phi), variant).sum()

    torch.testing.assert_close(grad(total)(phi.detach()), gradients(total(phi), phi)[0])


# The first variant of each estimator on one-hots, the others on the last kind that is no structure: cells of the
# robustness matrix compile each structure, which takes three times as long. What has formulas of its own for the
# score of a structure is compiled there too.
LEADING = [next(variant for variant in VARIANTS if type(variant) is estimator) for estimator in sp.REGISTER]
LAST = {  # the last kind of each
    variant: kind
    for variant, kind in CASES
    if kind not in STRUCTURES or "KnownMean" in variant.label or "learn=True" in variant.label
}
FIRST = {variant: kind for variant, kind in reversed(CASES)}  # noqa: C416  the first kind of each
COMPILED = [
    (variant, kind)
    for variant, kind in CASES
    if variant.compiles is True
    if kind is (CLASSES if variant in LEADING else LAST.get(variant))
    if variant not in LEADING or kind is not FIRST[variant]  # that is a cell of the robustness matrix
]


@pytest.mark.slow
@over(COMPILED)
def test_compiles_in_one_piece(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    def run(compiled: bool) -> tuple[Tensor, ...]:
        training, phi, weights = copy.deepcopy(variant).train(), kind.phi(BATCH), theta()

        def step(phi: Tensor, weights: Tensor) -> Tensor:
            dist = kind.dist(phi)
            return sp.expect(lambda x: cost(x, weights, len(dist.event_shape)), dist, training)

        torch.manual_seed(1)
        value = (
            torch.compile(step, fullgraph=True, backend="aot_eager")(phi, weights) if compiled else step(phi, weights)
        )
        return value, *gradients(value, phi, weights), *training.buffers()

    torch._dynamo.reset()
    results = run(False), run(True)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("variant", VARIANTS, ids=name)
def test_says_why_it_does_not_compile(variant: sp.Estimator[Any, Any]) -> None:
    assert variant.compiles is True or len(variant.compiles) > 10


@over(EACH)
def test_inside_activation_checkpointing(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
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


@over(EACH)
def test_autocast(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
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
