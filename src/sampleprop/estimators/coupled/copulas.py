"""Copulas: k uniform numbers, every two of them negatively correlated.

Source: [dimitriev2021arms] for the Dirichlet copula; [madow1944theory] for the systematic one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from sampleprop import noise

# Up to so many samples of so many numbers, comparing is two to nine times faster on the CPU than sorting.
FEW, MANY = 16, 3000

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
    order = permutation(noise.fractions(shape, like, generator))
    return (order + noise.uniform(shape[1:], like, generator)) / shape[0]


def permutation(u: Tensor) -> Tensor:
    """From independent numbers [k, ...] a random permutation of 0 to k - 1 along the first dimension."""
    if torch.compiler.is_dynamo_compiling() or u.shape[0] > FEW or u.numel() < MANY * u.shape[0]:
        return u.argsort(0)
    # The rank of each one by comparison. Of equal numbers the first one comes first.
    ranks = [
        (u[:i] <= x).sum(0, dtype=torch.uint8) + (u[i + 1 :] < x).sum(0, dtype=torch.uint8)
        for i, x in enumerate(u.unbind(0))
    ]
    return torch.stack(ranks)


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
    mean = k * q
    fraction = mean.frac()
    return (k - fraction * (1 - fraction) / (mean * (1 - q))) / (k - 1)
