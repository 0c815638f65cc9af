"""What every estimator states of itself, and its refusals."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

import sampleprop as sp
from contract.cases import BATCH, CASES, EACH, attached, name, over
from kinds import KINDS, Kind, cost, estimate, gradients, takes, theta
from sampleprop.bibliography import entries
from sampleprop.estimator import FAMILIES
from variants import CONFIGURATIONS, VARIANTS


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
def test_counts_evaluations_truthfully(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    phi = kind.phi(BATCH)
    dist = kind.dist(phi)
    forward: list[int] = []
    backward: list[int] = []

    def f(x: Tensor) -> Tensor:
        forward.append(x.shape[0])
        return cost(_Tap.apply(x, backward) if x.requires_grad else x, theta(), len(dist.event_shape))

    gradients(sp.expect(f, dist, variant), phi)
    assert (sum(forward), sum(backward)) == variant.evaluations(dist)


@over(EACH)
def test_for_budget_spends_no_more(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
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


REFUSING = [(variant, kind) for variant in VARIANTS for kind in KINDS if not takes(variant, kind)]


@over(REFUSING)
def test_unsupported_distributions_are_refused(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    refusal = variant.refusal(kind.dist(kind.phi(BATCH)))
    assert refusal is not None
    assert refusal.startswith(f"{variant.name} needs ")
    assert "; got " in refusal
    assert "Use " in refusal
    with pytest.raises(TypeError) as caught:
        estimate(variant, kind, kind.phi(BATCH), theta())
    assert str(caught.value) == refusal


@pytest.mark.parametrize("variant", VARIANTS, ids=name)
def test_what_is_no_distribution_is_refused(variant: sp.Estimator[Any, Any]) -> None:
    with pytest.raises(TypeError, match=rf"{variant.name} needs a torch\.distributions object; got Tensor"):
        sp.expect(lambda x: x, torch.zeros(3), variant)  # type: ignore[arg-type]


COUNTED = [estimator for estimator in sp.REGISTER if "samples" in vars(estimator())]


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "4"], ids=str)
@pytest.mark.parametrize("estimator", COUNTED, ids=lambda estimator: estimator.__name__)
def test_impossible_numbers_of_samples_are_refused(estimator: type[sp.Estimator[Any, Any]], number: Any) -> None:
    with pytest.raises(ValueError, match=rf"{estimator.__name__} needs .* samples, at least \d; got samples="):
        estimator(number)


@pytest.mark.parametrize("estimator", sp.REGISTER, ids=lambda estimator: estimator.__name__)
def test_facts_are_stated(estimator: type[sp.Estimator[Any, Any]]) -> None:
    instance = estimator()
    assert isinstance(instance.unbiased, bool)
    assert isinstance(instance.exact_forward, bool)
    assert instance.needs in ("black box", "differentiable", "relaxed")
    assert instance.objective in ("mean", "elbo", "log-mean-exp")
    assert instance.family in FAMILIES
    assert instance.source is not None
    assert 1700 < int(instance.source["year"]) < 2100
    assert re.match(rf"@(article|inproceedings|misc)\{{{instance.source.key},", instance.source.bibtex())
    for variant in CONFIGURATIONS[estimator]:
        assert type(variant) is estimator


@pytest.mark.parametrize("estimator", sp.REGISTER, ids=lambda estimator: estimator.__name__)
def test_file_names_its_source(estimator: type[sp.Estimator[Any, Any]]) -> None:
    """The module names the key of its source, which is in the bibliography, and says what is different here."""
    text = sys.modules[estimator.__module__].__doc__ or ""
    assert f"\nSource: [{estimator.source.key}]" in text
    assert set(re.findall(r"\[(\w+)\]", text)) <= set(entries())
    assert re.search(r"\b[Dd]ifferences? from the paper", text)


@over(
    [
        (variant, kind)
        for variant, kind in EACH
        if variant.propose(kind.dist(kind.phi(2))).probes is not None or variant.needs == "relaxed"
        if not attached(variant, kind)
    ]
)
def test_missing_evaluations_are_asked_for(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    """Ask and tell by hand, with the costs alone."""
    dist = kind.dist(kind.phi(BATCH))
    draw = variant.propose(dist)
    with pytest.raises(ValueError, match=r"needs .*; got .* Pass (probe_costs|relaxed_f)="):
        variant.combine(dist, draw, cost(draw.points, theta(), len(dist.event_shape)))
