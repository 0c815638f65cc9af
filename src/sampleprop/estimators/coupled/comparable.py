"""Refusals for estimators made of differences: where costs are left out, enough of them must remain to be compared."""

from __future__ import annotations

from torch import Tensor

from sampleprop.tracing import inspectable


def require_two(name: str, keep: Tensor) -> Tensor:
    """How many costs of each batch element are kept, [*batch]; fewer than two are refused."""
    number = keep.sum(0)
    require(name, number > 1, "two finite costs")
    return number


def require(name: str, enough: Tensor, needed: str) -> None:
    """Refuse batch elements without a difference: their gradient would be zero instead of noisy.

    Args:
        name: the estimator.
        enough: [*batch], whether enough costs are kept.
        needed: which costs are needed, for the message.
    """
    if inspectable(enough) and not bool(enough.all()):
        raise ValueError(
            f"{name} needs {needed} for each batch element; got fewer at batch index "
            f"{(~enough).nonzero()[0].tolist()}. Fix f, draw more samples, or use ScoreFunction, which can do with one."
        )
