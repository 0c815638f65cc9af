"""Joint outcomes of discrete variables, for estimators that enumerate their probabilities, but not f."""

from __future__ import annotations

from sampleprop.families import Discrete


def refusal(name: str, limit: int, variables: Discrete) -> str | None:
    """Why the joint outcomes are too many to enumerate, with the fix; None if they are not."""
    count = variables.support_size
    if count <= limit:
        return None
    return (
        f"{name} needs at most limit={limit} joint outcomes; got {count}. Raise the limit, or use LocalExpectation or "
        "ScoreFunction."
    )
