"""Gauss-Legendre quadrature.

Source: [golub1969calculation]. Differences from the paper: none.
"""

import torch
from torch import Tensor


def gauss_legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on (0, 1), by the eigenvalues of the Jacobi matrix: [count] each, in float64."""
    k = torch.arange(1, count, dtype=torch.float64, device="cpu")
    off = k / (4 * k.square() - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return (values + 1) / 2, vectors[0].square()
