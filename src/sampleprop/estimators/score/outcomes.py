"""Joint outcomes of discrete variables, for estimators that enumerate their probabilities, but not f."""

from __future__ import annotations

from torch.distributions import Distribution

from sampleprop import families


def refusal(name: str, limit: int, dist: Distribution) -> str | None:
    """Why the joint outcomes of `dist` are too many to enumerate, with the fix; None if they are not."""
    count = families.variables(dist).support_size
    if count <= limit:
        return None
    return (
        f"{name} needs at most limit={limit} joint outcomes; got {count}. Raise the limit, or use LocalExpectation or "
        "ScoreFunction."
    )
