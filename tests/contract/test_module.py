"""Every estimator as a module: copies, names, and what its parameters learn."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch

import sampleprop as sp
from contract.cases import BATCH, CASES, EACH, over
from kinds import Kind, estimate, gradients, theta
from variants import VARIANTS


@over(EACH)
def test_copies_are_the_same_estimator(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
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
def test_built_without_arguments_it_has_its_plain_name(estimator: type[sp.Estimator[Any, Any]]) -> None:
    assert repr(estimator()) == f"{estimator.__name__}()"
    assert getattr(sp, estimator.__name__) is estimator


def test_labels_tell_variants_apart() -> None:
    labels = [variant.label for variant in VARIANTS]
    assert len(labels) == len(set(labels))
    assert all(repr(variant) == variant.label for variant in VARIANTS)


LEARNING = [(variant, kind) for variant, kind in CASES if variant.learns]


@over(LEARNING)
def test_training_leaves_the_gradient_alone(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
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
def test_maximizing_trains_the_same_way(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    training, phi, weights = copy.deepcopy(variant).train(), kind.phi(BATCH), theta()
    parameters = [parameter for parameter in training.parameters() if parameter.requires_grad]
    down = torch.autograd.grad(estimate(training, kind, phi, weights).sum(), parameters)
    up = torch.autograd.grad(-2 * estimate(training, kind, phi, weights).sum(), parameters)
    assert any(gradient.abs().max() > 0 for gradient in down)
    for one, other in zip(down, up, strict=True):
        torch.testing.assert_close(2 * one, other)


@over([(variant, kind) for variant, kind in EACH if variant.learns])
def test_a_step_of_training_lowers_the_variance(variant: sp.Estimator[Any, Any], kind: Kind) -> None:
    """On the same noise: what falls is the squared gradient, whose mean is the variance and a constant."""
    training, phi, weights = copy.deepcopy(variant).train(), kind.phi(1), theta()
    phi = phi.detach().expand(20_000, *phi.shape[1:]).requires_grad_()

    def square(estimator: sp.Estimator[Any, Any]) -> float:
        return gradients(estimate(estimator, kind, phi, weights), phi)[0].square().sum().item() / len(phi)

    before = square(training)
    parameters = [parameter for parameter in training.parameters() if parameter.requires_grad]
    steps = torch.autograd.grad(estimate(training, kind, phi, weights).mean(), parameters)
    norm = math.sqrt(sum(step.square().sum().item() for step in steps))
    with torch.no_grad():
        for parameter, step in zip(parameters, steps, strict=True):
            parameter -= 0.01 / norm * step
    assert square(training) < before
