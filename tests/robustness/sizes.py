"""Sizes: batches, events and samples of the smallest size"""

from __future__ import annotations

import torch
from torch import Tensor

from kinds import BITS, INTEGERS, NORMAL, ONE_HOTS, POISSON, Kind
from robustness.matrix import RIGHT, Verdict, condition, meaningless, refusal
from robustness.subject import BATCH, Subject, same, theta, unchecked


@condition("empty batch")
def empty_batch(subject: Subject) -> Verdict:
    r"""The value and the gradient for $\phi$ are empty, and the gradient for $\theta$ is zero."""
    phi = subject.kind.phi(0)
    with unchecked():
        found = subject.run(phi)
    same(found, (torch.zeros(0), torch.zeros_like(phi), torch.zeros(2)))
    return RIGHT


@condition("no batch")
def no_batch(subject: Subject) -> Verdict:
    """Value and gradients equal those of a batch of one, with the same noise."""
    one = subject.run(subject.kind.phi(1))
    found = subject.run(subject.kind.phi())
    same(found, (one.value[0], one.by_phi[0], one.by_theta))
    return RIGHT


# Where the number of variables of an event is, in the shape of φ.
EVENTS: dict[Kind, tuple[int, ...]] = {
    BITS: (0,),
    ONE_HOTS: (0, 3),
    INTEGERS: (0, 3),
    NORMAL: (0, 2),
    POISSON: (0,),
}


@condition("empty event")
def empty_event(subject: Subject) -> Verdict:
    r"""Nothing is random. The value is $f$ at the empty point, the gradient for $\theta$ is $\nabla_\theta f$ there,
    and the gradient for $\phi$ is empty."""
    cases = subject.on(*EVENTS)
    for case in cases[:1]:
        phi, weights = torch.zeros(BATCH, *EVENTS[case.kind], requires_grad=True), theta()

        def f(x: Tensor, weights: Tensor = weights) -> Tensor:
            return x.to(weights).square().flatten(2).sum(-1) + weights.sum()

        with unchecked():
            found = case.run(phi, f=f, weights=weights)
        expected = weights.detach().sum().expand(BATCH)
        same(found, (expected, torch.zeros_like(phi), torch.full((2,), float(BATCH))))
    return RIGHT if cases else meaningless("accepts only single variables, or structures, which have at least one item")


@condition("one sample where two are needed")
def one_sample(subject: Subject) -> Verdict:
    """The constructor of the estimator refuses it. The condition does not apply if one sample is enough."""
    if "samples" not in vars(subject.estimator):
        return meaningless("has no argument samples")
    kind = type(subject.estimator)
    if kind().samples_least < 2:
        same_configuration = kind(1)
        assert same_configuration.samples == 1
        return meaningless("one sample is enough")
    return refusal(lambda: kind(1), rf"{subject.name} needs .* number of samples, at least 2; got samples=1")
