"""A walk over the autograd graph, from costs to the points that they were computed from."""

from __future__ import annotations

import random
import threading
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import Node

from sampleprop.graph.operations import flat, suspect

SMALL = 997  # nodes that `clear` looks at
FAR = 128  # nodes from one break to the next, at most; on average half as many


class Found(NamedTuple):
    """What a walk has found out about its targets."""

    unreached: set[Node]  # no path leads to these
    flat: dict[Node, str]  # a path leads to these through an operation that no derivative passes: which, and why


def node_of(points: Tensor) -> Node:
    """The node in which every path to these points ends; a leaf's too."""
    node = points.grad_fn
    if node is None and points.requires_grad and torch.is_grad_enabled():  # as torch finds it, in a third of the time
        node = points.view_as(points).grad_fn.next_functions[0][0]  # type: ignore[union-attr]
    return torch.autograd.graph.get_gradient_edge(points).node if node is None else node


def clear(costs: Tensor, end: Node) -> bool:
    """Whether a path leads from the costs to this node and no operation without a derivative is near; cheap.

    False also for a large graph: `search` says what there is.
    """
    root = costs.grad_fn
    if root is None:
        return False
    if root is end:
        if FAR * _RANDOM.random() < 1:
            _break_after(root)
        return True
    seen: set[Any] = {None, end}
    stack: list[Any] = [root]
    reached = False
    for _ in range(SMALL):
        if not stack:
            if FAR * _RANDOM.random() < len(seen):
                _break_after(root)
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
    roots: dict[Node, None] = {}
    for tensor in tensors:
        if tensor.grad_fn is not None:
            roots[tensor.grad_fn] = None
        elif tensor.requires_grad:
            found[id(tensor)] = tensor
    for node in _nodes(list(roots), None):
        leaf = getattr(node, "variable", None)  # of the node that accumulates into `.grad`
        if leaf is not None:
            found[id(leaf)] = leaf
    return tuple(found.values())


def search(costs: Tensor, targets: Collection[Node]) -> Found:
    """Follow every path from the costs; with one target, no further than to it.

    One look at each node of the graph, about half a microsecond. The graph must not have been freed.
    """
    root = costs.grad_fn
    if root is None:
        return Found(set(targets), {})
    end = next(iter(targets)) if len(targets) == 1 else None  # nothing that lies beyond an only target matters
    nodes = _nodes([root], end)
    crossed: list[tuple[Node, str]] = []  # what lies behind each operation that no derivative passes
    # By its class, because a node that is written in Python may have another `name`. A graph has few classes.
    kinds = {kind for kind in set(map(type, nodes)) if suspect(kind.__name__)}
    if kinds:
        for node in nodes:
            if type(node) in kinds and node is not end:
                for argument, (following, _) in enumerate(node.next_functions):
                    if following is not None and (why := flat(node, argument)) is not None:
                        crossed.append((following, why))
    return Found(set(targets).difference(nodes), _behind(crossed, targets, end))


def _nodes(roots: list[Node], end: Node | None) -> list[Node]:
    """All nodes of a graph, each once; of what lies beyond `end` only what other paths lead to."""
    nodes: list[Any] = [*roots]
    seen: set[Any] = {None, *roots}
    for node in nodes:  # the list grows meanwhile
        if node is not end:
            for following, _ in node.next_functions:
                if following not in seen:
                    seen.add(following)
                    nodes.append(following)
    place = int(FAR * _RANDOM.random())
    while place < len(nodes):
        _break_after(nodes[place])
        place += 1 + int(FAR * _RANDOM.random())
    return nodes


# Torch deletes the nodes of a graph one after another, except those that Python has seen: each of these deletes the
# next one from inside its own deletion. In a long graph, that would overflow the C stack and end the process. One walk
# may have seen all of it, or each of many walks a part. Therefore some of the nodes that a walk has seen, chosen at
# random, keep the next ones in a `_Break`.


class _Break:
    """What a node keeps, so that the next ones are deleted after it and not inside its own deletion."""

    __slots__ = ("nodes",)

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes = nodes

    def __del__(self) -> None:
        waiting = _LOCAL.waiting
        waiting.extend(self.nodes)
        self.nodes.clear()
        if _LOCAL.busy:
            return  # this is inside of the loop below
        _LOCAL.busy = True
        try:
            while waiting:
                waiting.pop()  # deletes this node, and those that come after it up to the next breaks
        finally:
            _LOCAL.busy = False


class _Local(threading.local):
    """Of each thread: the nodes that wait for their deletion, and whether it goes on."""

    def __init__(self) -> None:
        self.waiting: list[Node] = []
        self.busy = False


_LOCAL = _Local()
_RANDOM = random.Random(0)  # of its own, so that no other random number changes


def _break_after(node: Any) -> None:
    following = [following for following, _ in node.next_functions if following is not None]
    if following:
        node.metadata["sampleprop: break"] = _Break(following)


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
