"""Spanning trees of a graph.

Source: [kirchhoff1847ueber], the matrix-tree theorem. Differences from the paper: the determinant is an elimination of
nodes without subtractions, in logarithms, and the sampler undoes this elimination.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Generator, Size, Tensor
from torch.distributions import constraints

from sampleprop import noise
from sampleprop.families.enumerable import digits
from sampleprop.families.structured import LogLinear, Natural, logsumexp


class SpanningTree(LogLinear):
    r"""Choose a spanning tree of n nodes, with a probability proportional to the product of the weights of its edges.

    .. math:: p(x) \propto e^{\langle\theta, x\rangle}, \qquad x \in \{0, 1\}^{n (n - 1) / 2} \text{ a spanning tree}

    The edges are those above the diagonal, row by row: (0, 1), (0, 2), …, as `torch.triu_indices(n, n, 1)` has them.
    Each sample has n - 1 edges. This is not the distribution of the maximum spanning tree of perturbed logits. The
    log-normalizer takes n - 1 steps (O(n³) in all), and is accurate however far apart the weights are, where the
    determinant of the matrix-tree theorem is not.

    Args:
        logits: θ, [\*batch, n (n - 1) / 2], finite or -inf; an edge of -inf does not exist.
        validate_args: whether to check for NaN, +inf, graphs that are not connected, and values outside the support
            in `log_prob`.

    Raises:
        TypeError: for logits that are not a floating-point tensor.
        ValueError: for a number of logits that is not n (n - 1) / 2 for any n, and for logits as above.

    Example, a triangle with the weights 1, 2 and 3. Every two edges are a tree, so that the first edge is in a tree
    with probability (1 · 2 + 1 · 3) / 11:

        >>> import torch, sampleprop as sp
        >>> sp.SpanningTree(torch.tensor([1.0, 2.0, 3.0]).log()).mean
        tensor([0.4545, 0.7273, 0.8182])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": constraints.real_vector}
    has_rsample = False
    least = "a connected graph in each row"

    def __init__(self, logits: Tensor, *, validate_args: bool | None = None) -> None:
        if not isinstance(logits, Tensor) or not logits.is_floating_point():
            got = logits.dtype if isinstance(logits, Tensor) else type(logits).__name__
            raise TypeError(f"SpanningTree needs floating-point logits; got {got}. Pass one score for each edge.")
        edges = logits.shape[-1] if logits.dim() else 0
        self.nodes = (1 + math.isqrt(1 + 8 * edges)) // 2
        if edges == 0 or self.nodes * (self.nodes - 1) // 2 != edges:
            raise ValueError(
                "SpanningTree needs n (n - 1) / 2 logits in the last dimension, one for each pair of n nodes; got "
                f"{list(logits.shape)}. Give -inf to edges that do not exist."
            )
        self.logits = logits
        super().__init__(logits.shape[:-1], logits.shape[-1:], validate_args)

    @property
    def natural(self) -> Natural:
        return {"logits": noise.promote(self.logits)}

    @property
    def dtype(self) -> torch.dtype:
        return self.logits.dtype

    def log_normalizer(self, *, logits: Tensor) -> Tensor:  # type: ignore[override]
        total: Tensor | float = 0.0
        for removed in _eliminate(logits, self.nodes):
            total = total + logsumexp(removed.spokes, -1)
        assert isinstance(total, Tensor)
        return total

    def draw(self, shape: Size, generator: Generator | None = None) -> Tensor:
        """Put the nodes back in reverse order, each into a sample of the tree without it.

        An edge of that tree stands for itself, or for a path through the new node. Those of the second kind are taken
        away. The new node is then connected to one node of each part that is left, chosen by the weights of its edges.
        This is exact: with d the sum of its weights, and s those of the m + 1 parts, all trees of m edges between the
        parts weigh Π s · (Σ s)^(m - 1) / d^m together (Cayley), of which d makes Π s.
        """
        logits = noise.promote(self.logits.detach())
        tree = torch.zeros((*shape, *self.batch_shape, 1, 1), dtype=torch.bool, device=logits.device)
        for removed in reversed(_eliminate(logits, self.nodes)):
            v = tree.shape[-1]
            u = noise.uniform(tree.shape, logits, generator)
            itself = (u < (removed.direct - removed.merged).exp()).triu(1)
            forest = tree & (itself | itself.mT)
            reached = _closure(forest)
            scores = removed.spokes + noise.gumbel(tree.shape[:-1], logits, generator)
            best = torch.where(reached, scores.unsqueeze(-2), -torch.inf).argmax(-1)  # of each node's part
            ends = (best == torch.arange(v, device=logits.device)).unsqueeze(-1)  # [..., v, 1]
            row = torch.cat((ends.mT, torch.zeros_like(ends[..., :1, :])), -1)
            tree = torch.cat((torch.cat((forest, ends), -1), row), -2)
        first, second = torch.triu_indices(self.nodes, self.nodes, 1, device=logits.device)
        return tree[..., first, second].to(self.dtype)

    @property
    def mode(self) -> Tensor:
        """The maximum spanning tree, by growing it from the first node (Prim)."""
        n = self.nodes
        weights = _matrix(self.logits.detach(), n)
        inside = torch.zeros(weights.shape[:-1], dtype=torch.bool, device=weights.device)
        inside = torch.cat((torch.ones_like(inside[..., :1]), inside[..., 1:]), -1)
        chosen = torch.zeros_like(weights)
        for _ in range(n - 1):
            crossing = inside.unsqueeze(-1) & ~inside.unsqueeze(-2)
            best = torch.where(crossing, weights, -torch.inf).flatten(-2).argmax(-1, keepdim=True)
            chosen = chosen.flatten(-2).scatter(-1, best, 1.0).unflatten(-1, (n, n))
            inside = inside.scatter(-1, best % n, True)
        first, second = torch.triu_indices(n, n, 1, device=weights.device)
        return (chosen + chosen.mT)[..., first, second]

    @property
    def support_size(self) -> int:
        return int(self.nodes ** (self.nodes - 2))

    def states(self, numbers: Tensor) -> Tensor:
        """In the order of their Prüfer sequences, whose last entry counts lowest."""
        n = self.nodes
        sequence = digits(numbers, n, n - 2).flip(-1)  # [..., n - 2]
        nodes = torch.arange(n, device=numbers.device)
        degrees = 1 + (sequence.unsqueeze(-1) == nodes).sum(-2)  # [..., n]
        pairs = []
        for i in range(n - 2):
            leaf = (degrees == 1).to(torch.uint8).argmax(-1)  # the first one
            parent = sequence[..., i]
            pairs.append((leaf, parent))
            degrees = degrees - (nodes == leaf.unsqueeze(-1)).long() - (nodes == parent.unsqueeze(-1)).long()
        last = (degrees == 1).long()
        pairs.append((last.argmax(-1), n - 1 - last.flip(-1).argmax(-1)))
        index = _edge_numbers(n, numbers.device)
        edges = torch.arange(n * (n - 1) // 2, device=numbers.device)
        masks = [index[i, j].unsqueeze(-1) == edges for i, j in pairs]
        return torch.stack(masks).any(0).to(self.dtype)

    def contains(self, points: Tensor) -> Tensor:
        marks = ((points == 0) | (points == 1)).all(-1) & ((points == 1).sum(-1) == self.nodes - 1)
        return marks & _closure(_matrix(points.double(), self.nodes) == 1).flatten(-2).all(-1)


class _Removed(NamedTuple):
    """A node that was taken away: the logarithms of the weights, -inf on the diagonals."""

    direct: Tensor  # [..., v, v], between the nodes before it
    spokes: Tensor  # [..., v], from it to those
    merged: Tensor  # [..., v, v], direct and through it


def _eliminate(logits: Tensor, n: int) -> list[_Removed]:
    """Take one node away after the other, and connect its neighbours by what led through it (star-mesh)."""
    merged, steps = _matrix(logits, n), []
    for v in range(n - 1, 0, -1):
        direct, spokes = merged[..., :v, :v], merged[..., v, :v]
        degree = logsumexp(spokes, -1)
        shares = spokes - torch.where(degree == -torch.inf, 0.0, degree).unsqueeze(-1)
        through = torch.where(_diagonal(v, logits), -torch.inf, spokes.unsqueeze(-1) + shares.unsqueeze(-2))
        merged = logsumexp(torch.stack((direct, through)), 0)
        steps.append(_Removed(direct, spokes, merged))
    return steps


def _closure(adjacent: Tensor) -> Tensor:
    """Which nodes are connected by a path, themselves included: [..., v, v]."""
    v = adjacent.shape[-1]
    reached = (adjacent | _diagonal(v, adjacent)).to(torch.float32)
    for _ in range((v - 1).bit_length()):
        reached = (reached @ reached).clamp_max(1)
    return reached > 0


def _diagonal(n: int, like: Tensor) -> Tensor:
    return torch.eye(n, dtype=torch.bool, device=like.device)


def _matrix(edges: Tensor, n: int) -> Tensor:
    """The numbers of the edges in a symmetric matrix, with -inf on the diagonal: [..., edges] -> [..., n, n]."""
    return torch.where(_diagonal(n, edges), -torch.inf, edges[..., _edge_numbers(n, edges.device)])


def _edge_numbers(n: int, device: torch.device) -> Tensor:
    """The number of the edge between two nodes, [n, n]; 0 on the diagonal."""
    first, second = torch.triu_indices(n, n, 1, device=device)
    index = torch.zeros(n, n, dtype=torch.int64, device=device)
    index[first, second] = index[second, first] = torch.arange(n * (n - 1) // 2, device=device)
    return index
