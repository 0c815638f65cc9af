"""Logits: masks, certainty and saturation"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import torch
import torch.distributions as td
from torch import Generator, Tensor

import sampleprop as sp
from kinds import BITS, CHAINS, CLASSES, INTEGERS, MATCHINGS, ONE_HOTS, RANKINGS, SUBSETS, TREES, Kind
from robustness.matrix import RIGHT, Verdict, condition, meaningless, refusal
from robustness.subject import BATCH, Subject, coarse_noise, gradients, same, theta, unchecked
from sampleprop import families

INF = math.inf
MASKED = {
    BITS: [INF, 0.3, -INF],
    CLASSES: [-INF, 0.2, -INF, 0.5],
    ONE_HOTS: [[-INF, 0.2, 0.5], [-INF, 0.1, -INF]],
    INTEGERS: [[-INF, 0.2, 0.5], [-INF, 0.1, -INF]],
    SUBSETS: [0.3, -INF, -0.4, 1.2, 0.1],
    RANKINGS: [0.4, -INF, 1.1, -0.3],
    CHAINS: [0.3, -0.4, -INF, 0.5, 0.1, 0.2, 0.4, -INF, 0.6, -0.3],
    TREES: [0.4, -INF, 0.9, -0.8, 0.2, 0.1],
    MATCHINGS: [[0.4, -INF, 0.9], [-0.8, 0.2, 0.1], [0.5, 1.1, 0.6]],
}
CERTAIN = {
    BITS: [0.0, 1.0, 1.0],
    CLASSES: [0.0, 0.0, 1.0, 0.0],
    ONE_HOTS: [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    INTEGERS: [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    SUBSETS: [1.0, 0.0, 0.0, 1.0, 0.0],
    RANKINGS: [0.5, 0.0, 1.0, 0.0],
    CHAINS: [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.5, 0.5, 0.5, 0.5],
    TREES: [1.0, 0.0, 0.0, 0.0, 1.0, 1.0],
    MATCHINGS: [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]],
}
NO_PROBS = meaningless("a structure is given by logits")
NO_LOGITS = meaningless("takes no logits")


@condition("-inf logits")
def minus_infinity(subject: Subject) -> Verdict:
    """$f$ never gets an outcome of probability zero. Value and gradient agree with the sum over the possible states
    (z-test). For a biased estimator they equal the limit of logits of ±60, with the same noise."""
    for case in subject.logits():
        masked = torch.tensor(MASKED[case.kind], dtype=torch.float64)
        _sees_only_the_possible(case, masked)
        if isinstance(case.estimator, sp.EvolutionStrategies | sp.SPSA):
            replace(case, estimator=type(case.estimator)()).agrees_with_exact(masked)  # with a bias too small to see
        elif case.estimator.unbiased:
            case.agrees_with_exact(masked)
        else:
            rows = masked.expand(BATCH, *masked.shape)
            limit = case.run(rows.clamp(-60, 60).clone().requires_grad_())
            same(case.run(rows.clone().requires_grad_()), limit, rtol=1e-6, atol=1e-6)
    return RIGHT if subject.logits() else NO_LOGITS


def _sees_only_the_possible(case: Subject, masked: Tensor) -> None:
    f = case.f(theta(torch.float64))
    ones = case.kind is INTEGERS
    law = families.recognize(case.kind.dist(masked.expand(BATCH, *masked.shape)))

    def watching(x: Tensor) -> Tensor:
        if case.structured:
            assert bool(law.log_prob(x.detach()).isfinite().all())
            return f(x)
        hot = torch.nn.functional.one_hot(x, masked.shape[-1]) if ones else x.detach()
        assert float(hot[..., masked == -INF].abs().sum()) == 0
        assert bool((hot[..., masked == INF] == 1).all())
        return f(x)

    case.value(masked.expand(BATCH, *masked.shape).clone().requires_grad_(), watching)


@condition("a row of -inf")
def nothing_possible(subject: Subject) -> Verdict:
    """Refused; the error names the index of the row."""
    bits_only = meaningless("takes no classes; for a bit, a logit of -inf is a probability of zero")
    verdict = bits_only if subject.logits() else NO_LOGITS
    for case in [subject] if subject.structured else subject.on(CLASSES, ONE_HOTS, INTEGERS):
        phi = case.kind.phi(BATCH).detach()
        phi[1] = -INF
        wanted = rf"{case.name} needs at least one possible class .* at index \[1.*Leave one class unmasked"
        if case.structured:
            wanted = r"needs .*; got none in row \[1\]\. Mask less"
        with unchecked():
            verdict = refusal(partial(case.run, phi.requires_grad_()), wanted)
    return verdict


def _by_probs(kind: Kind, probs: Tensor) -> td.Distribution:
    if kind is BITS:
        return td.Independent(td.Bernoulli(probs=probs), 1)
    if kind is CLASSES:
        return td.OneHotCategorical(probs=probs)
    return td.Independent((td.OneHotCategorical if kind is ONE_HOTS else td.Categorical)(probs=probs), 1)


@condition("p in {0, 1}")
def certain(subject: Subject) -> Verdict:
    r"""The probabilities need no gradient. The value is $f$ at the certain point and the gradient for $\theta$ is
    $\nabla_\theta f$ there, exactly."""
    if subject.structured:
        return NO_PROBS
    for case in subject.logits():
        probs = torch.tensor([CERTAIN[case.kind]] * BATCH, dtype=torch.float64)
        weights = theta(torch.float64)
        value = sp.expect(case.f(weights), _by_probs(case.kind, probs), case.estimator, generator=Generator())
        point = f_at_certainty(case, weights)
        same((value, *gradients(value, weights)), (point, *gradients(point, weights)))
    return RIGHT if subject.logits() else NO_LOGITS


def f_at_certainty(case: Subject, weights: Tensor) -> Tensor:
    """[BATCH]: f where `CERTAIN` puts all probability."""
    points = torch.tensor([CERTAIN[case.kind]] * BATCH, dtype=weights.dtype)
    if case.structured:
        points = families.recognize(case.kind.dist(points)).mode()
    return case.f(weights)((points.argmax(-1) if case.kind is INTEGERS else points).unsqueeze(0))[0]


@condition("p in {0, 1}, attached")
def certain_with_gradient(subject: Subject) -> Verdict:
    """The gradient with respect to a probability of exactly 0 or 1 is not defined, so it is NaN. If the probability
    comes from `where`, this gradient is discarded: all other gradients are finite, and that of the discarded entry
    is 0."""
    if subject.structured:
        return NO_PROBS
    for case in subject.logits():
        certain = torch.tensor([CERTAIN[case.kind]] * BATCH, dtype=torch.float64)
        probs = certain.clone().requires_grad_()
        f = case.f(theta(torch.float64))
        value = sp.expect(f, _by_probs(case.kind, probs), case.estimator, generator=Generator().manual_seed(0))
        (own,) = gradients(value, probs)
        lost = (certain == 0) | (certain == 1) if case.kind is BITS else certain == 0
        assert bool(own[lost].isnan().all())
        assert bool(own[~lost].isfinite().all())
        free = torch.zeros_like(certain).requires_grad_()
        erased = torch.where(lost, certain, certain + free)
        value = sp.expect(f, _by_probs(case.kind, erased), case.estimator, generator=Generator().manual_seed(0))
        (left,) = gradients(value, free)
        assert bool(left.isfinite().all())
        assert bool((left[lost] == 0).all())
    return RIGHT if subject.logits() else NO_LOGITS


@condition("logits ±1e4")
def huge(subject: Subject) -> Verdict:
    r"""In float32, the value is $f$ at the certain point, the gradient for $\theta$ is $\nabla_\theta f$ there, and
    the gradient for $\phi$ is 0, its exact value."""
    for case in subject.logits():
        phi = (2e4 * torch.tensor([CERTAIN[case.kind]] * BATCH) - 1e4).requires_grad_()
        weights = theta()
        found, point = case.run(phi, weights=weights), f_at_certainty(case, weights)
        same(found, (point, torch.zeros_like(phi), *gradients(point, weights)), rtol=1e-5, atol=1e-5)
    return RIGHT if subject.logits() else NO_LOGITS


@condition("logits ±20")
def saturated(subject: Subject) -> Verdict:
    """Float32 equals float64 with the same noise, to 1e-4 of the largest entry."""
    for case in subject.logits():
        phi = 20 * torch.randn(64, *case.kind.shape, generator=Generator().manual_seed(2)).sign()
        with coarse_noise():
            fine = case.run(phi.double().requires_grad_())
        same(case.run(phi.clone().requires_grad_()), fine, rtol=1e-4, atol=1e-4)
    return RIGHT if subject.logits() else NO_LOGITS


@condition("logits that are probabilities")
def probabilities_as_logits(subject: Subject) -> Verdict:
    """A number in (0, 1) is a valid logit, so the mistake cannot be detected. The result is right for the given
    distribution: it agrees with the sum over the states (z-test). For a biased estimator, the chain rule through the
    softmax holds exactly. Read `dist.probs` if in doubt."""
    for case in subject.logits():
        numbers = case.kind.phi().detach().double()
        squash = torch.sigmoid if case.kind is BITS else lambda x: x.softmax(-1)
        if case.estimator.unbiased:
            case.agrees_with_exact(squash(numbers))
        else:
            leaf = numbers.expand(BATCH, *numbers.shape).clone().requires_grad_()
            squashed = squash(leaf)
            (chained,) = gradients(case.value(squashed, case.f(theta(torch.float64))), leaf)
            direct = case.run(squashed.detach().requires_grad_()).by_phi
            same((chained,), torch.autograd.grad(squashed, leaf, direct))
    return RIGHT if subject.logits() else NO_LOGITS
