"""Precision: half, mixed and double"""

from __future__ import annotations

import torch
from torch import Tensor

from robustness.matrix import RIGHT, Verdict, condition
from robustness.subject import BATCH, F, Subject, coarse_noise, same, theta


def _half(subject: Subject, dtype: torch.dtype) -> Verdict:
    phi = subject.kind.phi(BATCH, dtype=dtype)
    found = subject.run(phi, weights=theta(dtype))
    full = subject.run(phi.detach().float().requires_grad_())
    assert (found.value.dtype, found.by_phi.dtype) == (torch.float32, dtype)
    unit = torch.finfo(dtype).eps * float(1 + full.by_phi.abs().max())
    # Discrete points are exact in every dtype, so only the gradient's own rounding is left; others are rounded before
    # f.
    rounds = 8 if subject.attached or subject.kind.name in ("normal", "gamma") else 1
    same((found.value, found.by_phi), (full.value, full.by_phi.float()), rtol=0, atol=rounds * unit)
    return RIGHT


@condition("float16")
def float16(subject: Subject) -> Verdict:
    """With parameters in float16, value and gradient are those of float32 with the same noise, up to the rounding of
    the gradient to float16. If the points are rounded too, eight times that is allowed."""
    return _half(subject, torch.float16)


@condition("bfloat16")
def bfloat16(subject: Subject) -> Verdict:
    """As for float16."""
    return _half(subject, torch.bfloat16)


@condition("float32")
def float32(subject: Subject) -> Verdict:
    """Value and gradients are those of float64 with the same noise, to 1e-4."""
    found = subject.run()
    with coarse_noise():
        fine = subject.run(subject.kind.phi(BATCH).detach().double().requires_grad_())
    same(found, fine, rtol=1e-4, atol=1e-4)
    return RIGHT


@condition("autocast")
def autocast(subject: Subject) -> Verdict:
    """$f$ holds a layer that autocast runs in bfloat16. The value stays float32. Value and gradients are those
    without autocast, up to the rounding of $f$ to bfloat16: 16 units of rounding of the largest gradient, or of a
    cost near 2."""
    layer = torch.nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.fill_(0.7)
        layer.bias.fill_(0.1)

    def through(weights: Tensor) -> F:
        plain = subject.f(weights)
        return lambda x: layer(plain(x).unsqueeze(-1)).squeeze(-1)

    weights = theta()
    expected = subject.run(f=through(weights), weights=weights)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = subject.run(f=through(weights), weights=weights)
    assert found.value.dtype == torch.float32
    unit = torch.finfo(torch.bfloat16).eps * max(1.0, float(expected.by_phi.abs().max()))
    same(found[:2], expected[:2], rtol=0, atol=16 * unit)
    same(found[2:], expected[2:], rtol=0.05, atol=0.05)
    return RIGHT
