"""What autograd's nodes give back, found by running torch's operations: `python -m graph.sweep` prints it as JSON.

Each operation of torch's own list is run on torch's own examples, also in place and differentiated once more, and each
node of the graphs that arise is asked for its derivative. An edge, from a node to one of its arguments, is

- "live" where some example gives a derivative that is not zero;
- "zero" where all give zero, although the result depends on the argument;
- "undefined" where the derivative is not implemented;
- "borrowed" where there is a derivative, but the result does not change with a small change of the argument.

This runs in a process of its own, because torch's list of examples changes settings of torch when it is imported.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils._pytree import tree_leaves, tree_map

from sampleprop.graph import operations

EXAMPLES = 10  # of each operation
LARGE = 50_000  # numbers; examples of this size, of grid_sample in 3D, take a third of the time and show nothing new
SMALL = 1e-10
ENOUGH = 40  # examples of each edge
FEW = 8  # with fewer examples, a setting tells them apart by chance
FIRST = 0.4  # the first of the points
Call = Callable[[], Any]
NODES = {name for name, kind in vars(torch._C._functions).items() if isinstance(kind, type)}


def slope_of(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The derivative of a function of each coordinate."""
    (slope,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
    return slope


def slope_of_image(x: Tensor) -> Tensor:
    """The derivative, by the image, of its nearest pixels at these points."""
    image = torch.zeros(1, 1, 4, 4, dtype=x.dtype, requires_grad=True)
    grid = (2 * x[:8] - 1).reshape(1, 2, 2, 2)
    pixels = torch.nn.functional.grid_sample(image, grid, mode="nearest", align_corners=False)
    weights = torch.arange(1.0, 5.0, dtype=x.dtype).reshape(pixels.shape)
    (slope,) = torch.autograd.grad((pixels * weights).sum(), image, create_graph=True)
    return slope


def further() -> dict[str, Callable[[Tensor], Any]]:
    """Operations and modes that torch's list has not, each of 12 points in (0, 1), in two equal halves."""
    one, zero = torch.tensor([1.0]), torch.tensor([0])
    integer = zero.int()

    def fused(x: Tensor) -> Tensor:
        on = torch.tensor([1])
        low, high = torch.tensor([-3.0]), torch.tensor([3.0])
        scale, offset = torch.tensor([0.1]), torch.tensor([0], dtype=torch.int32)
        found: Tensor = torch.fused_moving_avg_obs_fake_quant(
            x.float(), on, on, low, high, scale, offset, 0.01, 0, 255, 0
        )
        return found

    return {
        "fake_quantize_per_tensor_affine": lambda x: torch.fake_quantize_per_tensor_affine(x.float(), 0.1, 0, 0, 255),
        "fake_quantize_per_tensor_affine, tensors": lambda x: torch.fake_quantize_per_tensor_affine(
            x.float(), one / 10, integer, 0, 255
        ),
        "fake_quantize_per_channel_affine": lambda x: torch.fake_quantize_per_channel_affine(
            x.float().reshape(1, -1), one / 10, integer, 0, 0, 255
        ),
        "_fake_quantize_learnable_per_tensor_affine": lambda x: torch._fake_quantize_learnable_per_tensor_affine(
            x.float(), one / 10, one * 0, 0, 255, 1.0
        ),
        "_fake_quantize_learnable_per_channel_affine": lambda x: torch._fake_quantize_learnable_per_channel_affine(
            x.float().reshape(1, -1), one / 10, one * 0, 0, 0, 255, 1.0
        ),
        "fused_moving_avg_obs_fake_quant": fused,
        "poisson": torch.poisson,
        "binomial, count": lambda x: torch.binomial((4 * x).round().detach() + 0 * x, torch.full_like(x, 0.4)),
        "binomial, prob": lambda x: torch.binomial(torch.full_like(x, 5.0), x),
        "normal, scale": lambda x: torch.normal(0.5, x),
        "normal, mean": lambda x: torch.normal(x, 1.0),
        "normal, both": lambda x: torch.normal(x, x),
        "_standard_gamma": torch._standard_gamma,
        "_sample_dirichlet": torch._sample_dirichlet,
        "bernoulli, in place": lambda x: torch.zeros_like(x).bernoulli_(x),
        "special.zeta, x": lambda x: torch.special.zeta(1.5 + x, 2.0),
        "special.zeta, q": lambda x: torch.special.zeta(1.5, 1 + x),
        "fmod, number": lambda x: x.fmod(0.3),
        "remainder, number": lambda x: x.remainder(0.3),
        "div by a number, floor": lambda x: x.div(0.3, rounding_mode="floor"),
        "div by a number, trunc": lambda x: x.div(0.3, rounding_mode="trunc"),
        "div, floor": lambda x: x.div(1.1 - x, rounding_mode="floor"),
        "floor_divide by a number": lambda x: x // 0.3,
        "number floor_divide": lambda x: 1.3 // x,
        "dropout": lambda x: torch.nn.functional.dropout(x, 0.3),
        "rrelu": lambda x: torch.nn.functional.rrelu(x - 0.5, training=True),
        "gt_ a number": lambda x: x.clone().gt_(0.5),
        "ge_ a number": lambda x: x.clone().ge_(0.5),
        "lt_ a number": lambda x: x.clone().lt_(0.5),
        "le_ a number": lambda x: x.clone().le_(0.5),
        "eq_ a number": lambda x: x.clone().eq_(FIRST),
        "ne_ a number": lambda x: x.clone().ne_(FIRST),
        "eq_": lambda x: x.clone().eq_(torch.full_like(x, FIRST)),
        "eq_, other": lambda x: torch.full_like(x, FIRST).eq_(x),
        "ne_": lambda x: x.clone().ne_(torch.full_like(x, FIRST)),
        "ne_, other": lambda x: torch.full_like(x, FIRST).ne_(x),
        "unique_dim": lambda x: torch.unique(x.reshape(6, 2), dim=0),
        "pdist, p=0": lambda x: torch.nn.functional.pdist(x.reshape(2, 6), p=0),
        "cdist, p=0": lambda x: torch.cdist(x.reshape(2, 6), torch.full((1, 6), FIRST, dtype=x.dtype), p=0),
        "cdist, p=0, other": lambda x: torch.cdist(torch.full((1, 6), FIRST, dtype=x.dtype), x.reshape(2, 6), p=0),
        "gradient of hardshrink": lambda x: slope_of(torch.nn.functional.hardshrink, x),
        "gradient of softshrink": lambda x: slope_of(torch.nn.functional.softshrink, x),
        "gradient of grid_sample nearest": slope_of_image,
        "foreach round": lambda x: torch._foreach_round([x])[0],
        "foreach sign": lambda x: torch._foreach_sign([x - 0.5])[0],
        "grid_sample nearest": lambda x: torch.nn.functional.grid_sample(
            torch.arange(16.0, dtype=x.dtype).reshape(1, 1, 4, 4),
            (2 * x[:8] - 1).reshape(1, 2, 2, 2),
            mode="nearest",
            align_corners=False,
        ),
        "grid_sample nearest, 3D": lambda x: torch.nn.functional.grid_sample(
            torch.arange(64.0, dtype=x.dtype).reshape(1, 1, 4, 4, 4),
            (2 * x[:6] - 1).reshape(1, 1, 1, 2, 3),
            mode="nearest",
            align_corners=False,
        ),
        "grid_sample, 3D": lambda x: torch.nn.functional.grid_sample(
            torch.arange(64.0, dtype=x.dtype).reshape(1, 1, 4, 4, 4),
            (1.4 * x[:6] - 0.7).reshape(1, 1, 1, 2, 3),
            align_corners=False,
        ),
    }


Make = Callable[[list[Tensor]], Call]


def calls() -> Iterator[tuple[str, Make, list[Tensor]]]:
    """Each operation on each example: its name, the call that differentiates by given leaves, and the leaves."""
    for name, function in further().items():
        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)
            leaf = torch.rand(6, generator=generator, dtype=torch.float64).repeat(2)
            leaf[0] = leaf[6] = FIRST
            leaf.requires_grad_()
            yield name, lambda asked, f=function, leaf=leaf: lambda: f(leaf), [leaf]  # type: ignore[misc]
    for op in op_db:
        if torch.float64 not in op.supported_dtypes("cpu"):
            continue
        try:
            samples = op.sample_inputs("cpu", torch.float64, requires_grad=True)
            for sample in islice(samples, EXAMPLES):
                if not (isinstance(sample.input, Tensor) and sample.input.numel() > LARGE):
                    yield from _variants(op, sample)
        except Exception as error:  # an example that torch cannot make
            print(f"{op.name}: {error}"[:200], file=sys.stderr)


def _variants(op: Any, sample: Any) -> Iterator[tuple[str, Make, list[Tensor]]]:
    """The operation, the operation in place, and its gradient."""
    everything = (sample.input, sample.args, sample.kwargs)
    leaves = [x for x in tree_leaves(everything) if isinstance(x, Tensor) and x.requires_grad and x.is_leaf]
    if not leaves and isinstance(sample.input, Tensor) and sample.input.is_floating_point():
        leaves = [sample.input.detach().requires_grad_()]  # an operation that says that it has no derivative
        everything = (leaves[0], sample.args, sample.kwargs)

    def given(asked: list[Tensor]) -> Any:
        def one(x: Any) -> Any:
            return x.detach() if isinstance(x, Tensor) and all(x is not leaf for leaf in asked) else x

        return tree_map(one, everything)

    def plain(asked: list[Tensor]) -> Any:
        x, args, kwargs = given(asked)
        return op(x, *args, **kwargs)

    def in_place(asked: list[Tensor]) -> Any:
        x, args, kwargs = given(asked)
        return op.get_inplace()(x.clone(), *args, **kwargs)

    def slope(asked: list[Tensor]) -> Any:
        outputs = [o for o in tree_leaves(plain(asked)) if isinstance(o, Tensor) and o.requires_grad]
        cotangents = [(torch.arange(o.numel()).reshape(o.shape) * 0.3).cos().to(o.dtype) for o in outputs]
        return torch.autograd.grad(outputs, asked, cotangents, create_graph=True, allow_unused=True)

    yield op.name, lambda asked: lambda: plain(asked), leaves
    if op.get_inplace() is not None and isinstance(sample.input, Tensor):
        yield f"{op.name}_", lambda asked: lambda: in_place(asked), leaves
    if op.supports_gradgrad:
        yield f"gradient of {op.name}", lambda asked: lambda: slope(asked), leaves


def run(call: Call) -> list[Tensor]:
    """The outputs of a call, with the same noise each time."""
    torch.manual_seed(0)
    return [x for x in tree_leaves(call()) if isinstance(x, Tensor) and x.layout is torch.strided]


def graph(outputs: list[Tensor]) -> Iterator[Node]:
    """The nodes of the outputs' graphs, those written in Python left out."""
    stack = [o.grad_fn for o in outputs if o.grad_fn is not None]
    seen = set(stack)
    while stack:
        node = stack.pop()
        if type(node).__name__ in NODES:
            yield node
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                stack.append(following)


def leaf_of(node: Node | None, leaves: list[Tensor], parents: Counter[Node]) -> Tensor | None:
    """The leaf that an edge leads to, if no other path leads there from the outputs."""
    while node is not None and parents[node] == 1:
        followed = [following for following, _ in node.next_functions if following is not None]
        if not followed:
            variable = getattr(node, "variable", None)
            return next((leaf for leaf in leaves if leaf is variable), None)
        node = followed[0] if len(followed) == 1 else None
    return None


def changes(call: Call, leaf: Tensor, moved: Tensor) -> bool | None:
    """Whether the outputs change where the leaf does; None where it cannot have this value."""
    before = leaf.detach().clone()
    try:
        first = [o.detach().clone() for o in run(call)]
        leaf.data.copy_(moved)
        second = [o.detach() for o in run(call)]
    except Exception:  # outside of the operation's domain
        return None
    finally:
        leaf.data.copy_(before)
    return any(
        a.shape != b.shape or not torch.equal(a.nan_to_num(), b.nan_to_num())
        for a, b in zip(first, second, strict=True)
    )


def depends(call: Call, leaf: Tensor) -> bool:
    """Whether the outputs depend on the leaf at all."""
    value = leaf.detach()
    if leaf.numel() == 0:
        return False
    ramp = torch.linspace(0.01, 0.2, value.numel(), dtype=value.dtype).reshape(value.shape)
    others = (value + ramp, value - ramp, value.flatten().roll(1).reshape(value.shape), 5 * value, -value)
    return any(changes(call, leaf, other) for other in others)


def borrowed(call: Call, leaf: Tensor) -> bool:
    """Whether the outputs do not change with a small change of the leaf, but with a large one."""
    tiny = leaf.detach() * (1 + SMALL * torch.rand_like(leaf)) + SMALL * torch.rand_like(leaf)
    return changes(call, leaf, tiny) is False and depends(call, leaf)


def derivatives(node: Any) -> list[str]:
    """The state of each edge of a node, for random cotangents."""
    metadata = node._input_metadata
    if any(0 in m.shape for m in metadata):
        return ["unknown"] * len(node.next_functions)
    cotangents = [torch.randn(tuple(m.shape), dtype=m.dtype) for m in metadata]
    edges = node.next_functions
    try:
        found = node(*cotangents)
    except Exception as error:
        said = "not implemented" in str(error)
        return ["undefined" if said and following is not None else "unknown" for following, _ in edges]
    found = found if isinstance(found, tuple) else (found,)
    return [_state(found[i] if i < len(found) else None, following) for i, (following, _) in enumerate(edges)]


def _state(derivative: Tensor | None, following: Node | None) -> str:
    if following is None:
        return "unknown"
    if derivative is None:
        return "zero"
    if derivative.layout is not torch.strided or derivative.numel() == 0:
        return "unknown"
    return "live" if bool((derivative != 0).any()) else "zero"


def settings(node: Node) -> dict[str, str]:
    """The settings that a node has saved, tensors apart: by a mode, an operation may be a step or not."""
    found = {}
    for name in dir(node):
        if name.startswith("_saved_"):
            value = getattr(node, name)
            if isinstance(value, int | float | str | None):
                found[name] = repr(value)
    return found


def telling(examples: list[tuple[str, dict[str, str]]]) -> list[str]:
    """The settings by whose value alone one could tell the examples with a derivative from those without."""
    values: dict[str, dict[bool, set[str]]] = defaultdict(lambda: {True: set(), False: set()})
    for state, saved in examples:
        for name, value in saved.items():
            values[name][state == "live"].add(value)
    if sum(state == "zero" for state, _ in examples) < FEW:
        return []
    return [name for name, found in values.items() if found[True] and found[False] and not found[True] & found[False]]


Key = tuple[str, int, str]  # a node, an edge, and what `operations` says of it


class Sweep:
    """What has been found so far."""

    def __init__(self) -> None:
        self.states: dict[Key, Counter[str]] = defaultdict(Counter)
        self.by: dict[Key, set[str]] = defaultdict(set)
        self.examples: dict[Key, list[tuple[str, dict[str, str]]]] = defaultdict(list)
        self.reached: set[str] = set()

    def add(self, name: str, make: Make, leaves: list[Tensor]) -> None:
        """Look at all nodes of one call; once more for each leaf alone, where together they raise."""
        if self._look(name, make(leaves), leaves) and len(leaves) > 1:
            for leaf in leaves:
                self._look(name, make([leaf]), [leaf])

    def _look(self, name: str, call: Call, leaves: list[Tensor]) -> bool:
        try:
            outputs = run(call)
        except Exception as error:  # an example that this variant does not take
            print(f"{name}: {error}"[:200], file=sys.stderr)
            return False
        raised = False
        nodes = list(graph(outputs))
        parents = Counter(following for node in nodes for following, _ in node.next_functions if following is not None)
        for node in nodes:
            self.reached.add(type(node).__name__)
            edges = [following for following, _ in node.next_functions]
            keys = [(type(node).__name__, i, operations.flat(node, i) or "") for i in range(len(edges))]
            if all(self.states[key].total() >= ENOUGH for key in keys):
                continue
            several = sum(following is not None for following in edges) > 1
            for key, following, state in zip(keys, edges, derivatives(node), strict=True):
                if state == "undefined" and several:
                    raised = True
                elif state != "unknown":
                    leaf = leaf_of(following, leaves, parents)
                    known = self.states[key]
                    if state == "zero":
                        state = "zero, unproven" if leaf is None else state if depends(call, leaf) else "independent"
                    elif state == "live" and leaf is not None and known["live"] < FEW and borrowed(call, leaf):
                        state = "borrowed"
                    known[state] += 1
                    self.by[key].add(name)
                    if state in ("zero", "live"):
                        self.examples[key].append((state, settings(node)))
        return raised

    def result(self) -> dict[str, Any]:
        """By node, edge, and what `operations` says of it: the states that were found, and by which operations."""
        edges = [
            {
                "node": key[0],
                "edge": key[1],
                "said": key[2],
                "states": dict(found),
                "telling": telling(self.examples[key]),
                "by": sorted(self.by[key])[:4],
            }
            for key, found in sorted(self.states.items())
            if found
        ]
        return {"edges": edges, "unreached": sorted(NODES - self.reached)}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found = Sweep()
    for each in calls():
        found.add(*each)
    json.dump(found.result(), sys.stdout, indent=1)
