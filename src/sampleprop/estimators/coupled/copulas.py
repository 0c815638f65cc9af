"""Copulas: k uniform numbers, every two of them negatively correlated.

Source: [dimitriev2021arms] for the Dirichlet copula; [madow1944theory] for the systematic one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from sampleprop import noise

Copula = Literal["systematic", "dirichlet"]


def known(name: str, copula: str) -> None:
    """Refuse a copula that does not exist."""
    if copula not in get_args(Copula):
        needed = " or ".join(f'copula="{kind}"' for kind in get_args(Copula))
        raise ValueError(f"{name} needs {needed}; got {copula!r}.")


def uniforms(copula: Copula, shape: Sequence[int], like: Tensor, generator: Generator | None = None) -> Tensor:
    """Draw [k, ...]: each number is U(0, 1); they are exchangeable along the first dimension, else independent."""
    if copula == "dirichlet":
        exponential = noise.exponential(shape, like, generator)
        # A share s of a flat Dirichlet draw is Beta(1, k - 1). Therefore (1 - s)^(k - 1) is uniform.
        return (1 - exponential / exponential.sum(0)) ** (shape[0] - 1)
    ranks = noise.uniform(shape, like, generator).argsort(0)
    return (ranks + noise.uniform(shape[1:], like, generator)) / shape[0]


def decorrelation(copula: Copula, k: int, q: Tensor) -> Tensor:
    """1 - ρ, where ρ ≤ 0 is the correlation of 1[u < q] and 1[u' < q] for two of the k uniform numbers.

    Args:
        copula: the joint distribution of the uniform numbers.
        k: how many there are, at least 2.
        q: a probability in [0, 1).
    """
    if copula == "dirichlet":
        # P(u < q, u' < q) / q. In this form nothing cancels, and q = 0 gives 0.
        both = (2 - q ** (-1 / (k - 1))).clamp_min(0) ** (k - 1)
        return (1 - both) / (1 - q)
    # The number of u below q is kq rounded down or up. Its variance is t (1 - t), where t is the fractional part of kq,
    # and it is k q (1 - q) (1 + (k - 1) ρ). No integer of the same mean has less variance, so no copula has less ρ.
    q = q.clamp_min(torch.finfo(q.dtype).tiny)
    fraction = (k * q).frac()
    return (k - fraction * (1 - fraction) / (k * q * (1 - q))) / (k - 1)
