"""What estimators made of differences need once costs are left out: something to compare."""

from __future__ import annotations

from torch import Tensor

from sampleprop.tracing import inspectable


def require(name: str, enough: Tensor, needed: str) -> None:
    """Refuse batch elements without a difference, whose gradient would be zero, not noisy.

    Args:
        name: the estimator.
        enough: [*batch], whether enough costs are kept.
        needed: what that is.
    """
    if inspectable(enough) and not bool(enough.all()):
        raise ValueError(
            f"{name} needs {needed} for each batch element; got fewer at batch index {(~enough).nonzero()[0].tolist()}. "
            "Fix f, draw more samples, or use ScoreFunction, which can do with one."
        )
