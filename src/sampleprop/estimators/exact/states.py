"""Joint states of discrete variables, for estimators that enumerate their probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from sampleprop.families import Enumerable, Structures
from sampleprop.surrogate import unsqueeze_to
from sampleprop.tracing import inspectable


def refusal(name: str, limit: int, variables: Enumerable) -> str | None:
    """Why there are too many joint states to enumerate, with the fix; None if there are not."""
    count = variables.support_size
    if count <= limit:
        return None
    instead = "ScoreFunction" if isinstance(variables, Structures) else "LocalExpectation or ScoreFunction"
    return f"{name} needs at most limit={limit} joint states; got {count}. Raise the limit, or use {instead}."


def shown_to_f(variables: Enumerable, states: Tensor, possible: Tensor) -> Tensor:
    """Return the states with the mode in place of impossible ones, because f may be undefined there.

    Args:
        variables: whose states these are.
        states: [n, *batch, *event], or with dimensions of size 1 for the batch.
        possible: [n, *batch].
    """
    if inspectable(possible) and not possible.is_cuda and bool(possible.all()):
        return states.expand(*possible.shape, *variables.event_shape)
    return torch.where(unsqueeze_to(possible, states.dim()), states, variables.mode())
