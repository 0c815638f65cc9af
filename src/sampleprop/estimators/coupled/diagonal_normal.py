"""A MultivariateNormal with a diagonal covariance as independent Normal variables."""

from __future__ import annotations

from typing import Any

import torch.distributions as td

from sampleprop.families import Variables, recognize
from sampleprop.tracing import inspectable


def separate(variables: Variables) -> Variables:
    """Independent Normal variables in place of a MultivariateNormal; all other variables as they are."""
    base: Any = variables.base
    if type(base) is not td.MultivariateNormal:
        return variables
    scale = base._unbroadcasted_scale_tril.diagonal(dim1=-2, dim2=-1)
    normals = td.Normal(base.loc, scale, validate_args=False)
    return recognize(td.Independent(normals, variables.event_ndim + 1, validate_args=False))


def dependence(variables: Variables) -> str | None:
    """In what way the coordinates of a MultivariateNormal depend on each other, for messages; None if they do not.

    They depend also where a matrix may have a gradient off the diagonal, which independent variables would not give.
    """
    base: Any = variables.base
    if type(base) is not td.MultivariateNormal or not inspectable(base._unbroadcasted_scale_tril):
        return None
    if bool(base._unbroadcasted_scale_tril.tril(-1).any()):
        return "one with a covariance off the diagonal"
    for name, matrix in variables.parameters.items():
        node = matrix.grad_fn
        while node is not None and node.name().startswith("Expand"):
            node = node.next_functions[0][0]
        if name != "loc" and matrix.requires_grad and not (node is not None and node.name().startswith("DiagEmbed")):
            return f"one whose {name} may have a gradient off the diagonal"
    return None
