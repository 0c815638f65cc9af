"""The bound of several samples on log p(x), from their log-weights.

Source: [burda2016importance], sec. 3. Differences from the paper: none.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sampleprop import checks, noise
from sampleprop.tracing import inspectable


def importance_weighted_bound(log_weights: Tensor, dim: int = 0, *, points: Tensor | None = None) -> Tensor:
    r"""The K-sample bound from logarithms of weights that are already there: log 1/K Σ_k exp(log w_k).

    Autograd differentiates it as it stands, with the weights w̃_k. This is right for θ. For φ it is right only where
    the samples were reparameterized and the log-weights are attached through them:
    log w = log p(x, g(φ, ε)) - log q_φ(g(φ, ε)).

    No score is added for samples that were drawn without `rsample`, so for those the gradient for φ would be wrong. The
    log-weights alone do not show this; given the samples as `points`, the function refuses it. :class:`VIMCO`,
    :class:`DoublyReparameterized` and :class:`ReweightedWakeSleep` need log p, log q and the samples separately.

    Args:
        log_weights: log w, with the K samples of each bound along `dim`.
        dim: the dimension of the samples.
        points: the samples z, of any shape, if φ is to get a gradient. The log-weights then need a path to φ through
            them.

    Returns:
        The bound, without the dimension `dim`; in float32 at least.

    Raises:
        TypeError: for what is not a tensor of real floating-point numbers.
        ValueError: where there is no such dimension, or it is empty.
        RuntimeError: for log-weights that have no path to `points`, or points that have none to φ.

    Example:
        >>> import torch, sampleprop as sp
        >>> sp.importance_weighted_bound(torch.tensor([1.0, 3.0]).log()).exp()
        tensor(2.)
    """
    if not isinstance(log_weights, Tensor) or not log_weights.is_floating_point():
        got = log_weights.dtype if isinstance(log_weights, Tensor) else type(log_weights).__name__
        raise TypeError(f"importance_weighted_bound needs a tensor of real log-weights; got {got}. Pass log p - log q.")
    shape = list(log_weights.shape)
    if not -len(shape) <= dim < len(shape) or shape[dim] == 0:
        raise ValueError(
            f"importance_weighted_bound needs the samples along dim={dim}, at least one; got log-weights of shape "
            f"{shape}. Name the dimension of the samples."
        )
    if points is not None and torch.is_grad_enabled() and inspectable(log_weights):
        _refuse_no_path(log_weights, points)
    return noise.promote(log_weights).logsumexp(dim) - math.log(shape[dim])


def _refuse_no_path(log_weights: Tensor, points: Tensor) -> None:
    obstacle = "no path from them to φ" if points.grad_fn is None else checks.obstacle(log_weights, points)
    if obstacle is not None:
        raise RuntimeError(
            "importance_weighted_bound needs log-weights that autograd can follow to φ through the points; got "
            f"{obstacle}, so the gradient for φ would be wrong. Draw the points with rsample and do not detach them, "
            "or use VIMCO, which brings the score of the samples."
        )
