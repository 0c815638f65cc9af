"""A walk over the autograd graph, from costs to the points that they were computed from."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import Node

from sampleprop.graph.operations import flat, suspect

SMALL = 997  # nodes; a graph up to here is deleted recursively without danger. A prime, so that no pattern fits it.


class Found(NamedTuple):
    """What a walk has found out about its targets."""

    unreached: set[Node]  # no path leads to these
    flat: dict[Node, str]  # a path leads to these through an operation that no derivative passes: which, and why


def node_of(points: Tensor) -> Node:
    """The node in which every path to these points ends; a leaf's too."""
    return torch.autograd.graph.get_gradient_edge(points).node


def clear(costs: Tensor, end: Node) -> bool:
    """Whether a path leads from the costs to this node and no operation without a derivative is near; cheap.

    False also for a large graph: `search` says what there is.
    """
    root = costs.grad_fn
    if root is end:
        return True
    seen: set[Any] = {None, end}
    stack: list[Any] = [root] if root is not None else []
    reached = False
    for _ in range(SMALL):
        if not stack:
            return reached
        node = stack.pop()
        if suspect(type(node).__name__):
            return False
        for following, _ in node.next_functions:
            if following is end:
                reached = True
            elif following not in seen:
                seen.add(following)
                stack.append(following)
    return False


def look(costs: Tensor, node: Node) -> Found:
    """What lies between the costs and this node: by `clear`, and by `search` where that does not tell."""
    return Found(set(), {}) if clear(costs, node) else search(costs, {node})


def leaves(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """The leaves of the graphs of these tensors, each once."""
    found: dict[int, Tensor] = {}
    roots: list[Any] = []
    for tensor in tensors:
        if tensor.grad_fn is not None:
            roots.append(tensor.grad_fn)
        elif tensor.requires_grad:
            found[id(tensor)] = tensor
    stack = [*roots]
    seen: set[Any] = {None, *roots}
    while stack:
        node = stack.pop()
        leaf = getattr(node, "variable", None)  # of the node that accumulates into `.grad`
        if leaf is not None:
            found[id(leaf)] = leaf
        for following, _ in node.next_functions:
            if following not in seen:
                seen.add(following)
                stack.append(following)
    if len(seen) > SMALL:
        _delete_in_order(roots, None)
    return tuple(found.values())


def search(costs: Tensor, targets: Collection[Node]) -> Found:
    """Follow every path from the costs; with one target, no further than to it.

    One look at each node of the graph, about a microsecond. The graph must not have been freed.
    """
    root = costs.grad_fn
    if root is None:
        return Found(set(targets), {})
    end = next(iter(targets)) if len(targets) == 1 else None  # nothing that lies beyond an only target matters
    seen: set[Any] = {None, root}
    stack: list[Any] = [root]
    crossed: list[tuple[Node, str]] = []  # what lies behind each operation that no derivative passes
    while stack:
        node = stack.pop()
        if node is end:
            continue
        edges = node.next_functions
        if suspect(type(node).__name__):  # a node written in Python may have another `name`
            for argument, (following, _) in enumerate(edges):
                if following is not None and (why := flat(node, argument)) is not None:
                    crossed.append((following, why))
        for following, _ in edges:
            if following not in seen:
                seen.add(following)
                stack.append(following)
    if len(seen) > SMALL:
        _delete_in_order([root], end)
    return Found({node for node in targets if node not in seen}, _behind(crossed, targets, end))


def _behind(crossed: list[tuple[Node, str]], targets: Collection[Node], end: Node | None) -> dict[Node, str]:
    """Those targets that lie behind one of these nodes, with what led there."""
    stack = crossed[::-1]
    seen: set[Node] = set()
    found: dict[Node, str] = {}
    while stack:
        node, why = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in targets:
            found[node] = why
        if node is not end:
            stack.extend((following, why) for following, _ in node.next_functions if following is not None)
    return found


def _delete_in_order(roots: Iterable[Node], end: Node | None) -> None:
    """Keep a deep graph from being deleted recursively, which would overflow the C stack and end the process.

    Torch deletes the nodes of a graph one after another, except those that Python has seen: each of these deletes the
    next one from inside its own deletion. A walk has seen all. Therefore every so many nodes, one keeps a list of those
    that come after it, in an order in which each node precedes those that it leads to. When the one is gone, the list
    lets go of them in this order, so that none is the last to hold the next one.
    """
    order: list[Node] = []
    entered: set[Any] = {None, end}
    left: set[Node] = set()
    stack: list[Any] = [*roots]
    while stack:
        node = stack.pop()
        if node not in entered:
            entered.add(node)
            stack.append(node)  # once more, below all that it leads to
            stack.extend(following for following, _ in node.next_functions if following not in entered)
        elif node not in left:
            left.add(node)
            if node.next_functions:
                order.append(node)  # after all that it leads to
    # A list lets go of its last element first.
    for start in range(len(order) - 1, 0, -SMALL):
        metadata: Any = order[start].metadata
        metadata["sampleprop: nodes after this one"] = order[max(start - SMALL, 0) : start]
