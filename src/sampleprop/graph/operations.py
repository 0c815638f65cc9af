"""Torch's operations that autograd records although no derivative passes them.

Most are steps, constant wherever they are continuous. Their derivative is zero, so a gradient that was followed through
them misses what they do. The list is complete for torch 2.13: the sweep of `tests/graph/` asks every operation of torch
for its derivatives, and compares. An operation that is written in Python, a `torch.autograd.Function` of the user's
own, says itself what its derivative is; none is in the list.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, empty
from torch.autograd.graph import Node

from sampleprop.tracing import unregistered_operation

STEP = "whose derivative is zero everywhere"
DRAW = "whose derivative torch records as zero"
UNKNOWN = "whose derivative torch does not know"
GENERATED = "GeneratedBackwardFor_"  # what torch calls the derivative of an operation of `torch.library.custom_op`
BORROWED = "whose derivative is not its own but that of another function"


class Rule(NamedTuple):
    """Through which arguments of an operation no derivative passes."""

    operation: str
    why: str
    arguments: tuple[int, ...] | None = (0,)  # positions in the node's `next_functions`; None for all
    when: Callable[[Any], bool] = lambda node: True


@functools.cache
def suspect(kind: str) -> bool:
    """Whether no derivative may pass through some argument of a node of this kind: `flat` says through which."""
    return kind in RULES or kind.startswith(GENERATED)


def flat(node: Node, argument: int) -> str | None:
    """Why no derivative passes from the node to this argument: the operation and a clause; None where one does.

    The node's graph must not have been freed.
    """
    kind = type(node).__name__
    if kind.startswith(GENERATED):
        operation = unregistered_operation(node)
        return None if operation is None else f"{operation}, {UNKNOWN}"
    rule = RULES.get(kind)
    if rule is None or (rule.arguments is not None and argument not in rule.arguments) or not rule.when(node):
        return None
    return f"{rule.operation or _unnamed(node)}, {rule.why}"


def _unnamed(node: Any) -> str:
    """The operation of a node that does nothing but raise, from what it says: "derivative for aten::heaviside"."""
    try:
        node(*(empty(0) for _ in node._input_metadata))
    except RuntimeError as error:
        found = re.search(r"::(\w+)", str(error))
        return found[1] if found else "an operation"
    return "an operation"


def _real(node: Any) -> bool:
    saved: Tensor = node._saved_self
    return not saved.is_complex()


def _nearest(node: Any) -> bool:
    return bool(node._saved_interpolation_mode == 1)


def _hamming(node: Any) -> bool:
    return bool(node._saved_p == 0)


def _rounded(node: Any) -> bool:
    return getattr(node, "_saved_rounding_mode", None) is not None


def _unregistered(node: Any) -> bool:
    """Whether this is what torch puts where a library has registered no derivative; backward then gives nothing."""
    return str(node.name()).endswith("WarnNotImplemented")


def _comparisons() -> dict[str, Rule]:
    names = {"Eq": "eq_", "Ne": "ne_", "Gt": "gt_", "Ge": "ge_", "Lt": "lt_", "Le": "le_"}
    return {f"{key}Backward{i}": Rule(name, STEP, (0, 1)) for key, name in names.items() for i in (0, 1)}


def _second_derivatives() -> dict[str, Rule]:
    """Gradients that the cost is made of, as a gradient penalty is: that of relu is a step."""
    names = {
        "AdaptiveMaxPool2D": "adaptive_max_pool2d",
        "AdaptiveMaxPool3D": "adaptive_max_pool3d",
        "FractionalMaxPool2D": "fractional_max_pool2d",
        "FractionalMaxPool3D": "fractional_max_pool3d",
        "Hardshrink": "hardshrink",
        "Hardtanh": "hardtanh",
        "LeakyRelu": "leaky_relu",
        "MaxPool2DWithIndices": "max_pool2d",
        "MaxPool3DWithIndices": "max_pool3d",
        "RreluWithNoise": "rrelu",
        "Softshrink": "softshrink",
        "Threshold": "relu",
    }
    return {f"{key}BackwardBackward0": Rule(f"the gradient of {name}", STEP, (1,)) for key, name in names.items()}


RULES: dict[str, Rule] = {
    "AngleBackward0": Rule("angle", STEP, when=_real),
    "CeilBackward0": Rule("ceil", STEP),
    "CopysignBackward0": Rule("copysign", STEP, (1,)),
    "FloorBackward0": Rule("floor", STEP),
    "RoundBackward0": Rule("round", STEP),
    "RoundBackward1": Rule("round", STEP),
    "SgnBackward0": Rule("sgn", STEP, when=_real),
    "SignBackward0": Rule("sign", STEP),
    "TruncBackward0": Rule("trunc", STEP),
    **{f"DivBackward{i}": Rule("div(rounding_mode=...)", STEP, (0, 1), _rounded) for i in range(4)},
    **_comparisons(),
    **{f"GridSampler{n}DBackward0": Rule('grid_sample(mode="nearest")', STEP, (1,), _nearest) for n in (2, 3)},
    "GridSampler2DBackwardBackward0": Rule('the gradient of grid_sample(mode="nearest")', STEP, (2,), _nearest),
    "CdistBackward0": Rule("cdist(p=0)", STEP, (0, 1), _hamming),
    "PdistBackward0": Rule("pdist(p=0)", STEP, when=_hamming),
    **_second_derivatives(),
    "BernoulliBackward0": Rule("bernoulli", DRAW),
    "BernoulliBackward1": Rule("bernoulli_", DRAW, (1,)),
    "NextafterBackward0": Rule("nextafter", DRAW, (1,)),
    "NormalBackward1": Rule("normal", DRAW),
    "NormalBackward2": Rule("normal", DRAW),
    "NormalBackward3": Rule("normal", DRAW, (0, 1)),
    "PoissonBackward0": Rule("poisson", DRAW),
    "AcoshBackward1": Rule("acosh_", UNKNOWN),
    "AsinhBackward1": Rule("asinh_", UNKNOWN),
    "AtanhBackward1": Rule("atanh_", UNKNOWN),
    "GeqrfBackward0": Rule("geqrf", UNKNOWN),
    "IgammaBackward0": Rule("igamma", UNKNOWN),
    "IgammacBackward0": Rule("igammac", UNKNOWN),
    "SpecialZetaBackward0": Rule("special.zeta", UNKNOWN),
    "SpecialZetaBackward2": Rule("special.zeta", UNKNOWN),
    "Unique2Backward0": Rule("unique", UNKNOWN),
    "UniqueConsecutiveBackward0": Rule("unique_consecutive", UNKNOWN),
    "UniqueDimBackward0": Rule("unique", UNKNOWN),
    "NotImplemented": Rule("", UNKNOWN, None),
    "CppFunction": Rule("an operation of another library", UNKNOWN, None, _unregistered),
    "FakeQuantizeLearnablePerChannelAffineBackward0": Rule("fake quantization", BORROWED),
    "FakeQuantizeLearnablePerTensorAffineBackward0": Rule("fake quantization", BORROWED),
    "FakeQuantizePerChannelAffineCachemaskBackward0": Rule("fake quantization", BORROWED),
    "FakeQuantizePerTensorAffineCachemaskBackward0": Rule("fake quantization", BORROWED),
    "FakeQuantizePerTensorAffineCachemaskTensorQparamsBackward0": Rule("fake quantization", BORROWED),
    "FusedMovingAvgObsFqHelperBackward0": Rule("fake quantization", BORROWED),
}
