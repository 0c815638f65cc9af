"""Tests of f alone: does each cost depend on its own point only, and is f continuous where it is differentiated?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from sampleprop import checks, families
from sampleprop.diagnostics.checking.findings import Finding
from sampleprop.diagnostics.measuring.replicates import any_number
from sampleprop.surrogate import unsqueeze_to

CELLS = 8
SEARCHED = 64
LINES = 8
PARTS = 32
DRAWS, PIECES = 256, 16  # of the search for rare points with another cost
LEVELS = 4
SAME = 4  # roundings by which equal costs may differ between rows
SMALLEST_JUMP = 1e-4  # of the range of f


class Cost:
    """f with a fixed random state, so that a random f draws the same noise at every call."""

    def __init__(self, name: str, f: Callable[[Tensor], Any], dist: Distribution, seed: int) -> None:
        self.name, self.f, self.dist, self.seed = name, f, dist, seed
        self.variables = families.recognize(dist)

    def __call__(self, points: Tensor, seed: int | None = None) -> Tensor:
        torch.manual_seed(self.seed if seed is None else seed)
        with torch.no_grad():
            with any_number(points.shape[0]):
                costs: Tensor = checks.costs(self.name, self.dist, points, self.f(points.clone()))
            return costs.detach().double()


def tolerance(costs: Tensor, points: Tensor, roundings: int = 256) -> float:
    """The change that this number of roundings may cause in costs of this size."""
    eps = torch.finfo(points.dtype).eps if points.is_floating_point() else torch.finfo(torch.float32).eps
    return roundings * eps * float(costs.abs().max())


def randomness(cost: Cost, points: Tensor) -> tuple[Finding | None, bool]:
    """Whether f gives the same points the same costs; and whether it does so with a fixed random state."""
    first = cost(points)
    repeatable = bool((cost(points) - first).abs().max() <= tolerance(first, points))
    change = float((cost(points, cost.seed + 1) - first).abs().max())
    if repeatable and change <= tolerance(first, points):
        return None, True
    finding = Finding(
        "random f",
        "warning",
        f"f is random: the same points cost up to {change:.3g} more or less at a second call (dropout, or noise of "
        "its own). The gradient is then that of the mean over this noise, and has more variance. Put f in eval mode, "
        "or make the noise part of the event if the distribution should know it.",
    )
    return finding, repeatable


def mixing(cost: Cost, points: Tensor, generator: Generator) -> tuple[Finding | None, bool]:
    """Replace one point at a time and see whether other costs change; and whether any point could be replaced."""
    batch = tuple(cost.dist.batch_shape)
    flat = points.flatten(0, len(batch))  # [cells, *event]
    others = cost.variables.sample(SEARCHED, generator).reshape(SEARCHED, -1, *flat.shape[1:])
    before = cost(points).flatten()
    replaced_one = False
    for cell in torch.linspace(0, len(flat) - 1, min(CELLS, len(flat))).round().long().tolist():
        candidates = others[:, cell % others.shape[1]]
        different = (candidates != flat[cell]).flatten(1).any(1) if flat.dim() > 1 else candidates != flat[cell]
        if not bool(different.any()):
            continue
        replaced_one = True
        replaced = flat.clone()
        replaced[cell] = candidates[different][0]
        change = (cost(replaced.reshape(points.shape)).flatten() - before).abs()
        change[cell] = 0
        if float(change.max()) > tolerance(before, points):
            here, there = (_index(i, (points.shape[0], *batch)) for i in (cell, int(change.argmax())))
            return Finding(
                "f mixes rows",
                "error",
                f"f mixes rows: replacing the point at [sample, *batch] = {here} changed the cost at {there} by "
                f"{float(change.max()):.3g}. Every estimator assumes that the cost of a point depends on that point "
                "only, so the gradient is wrong (batch norm in train mode, an in-batch contrastive loss). Put f in "
                "eval mode, or make the batch part of the event: wrap the distribution in "
                "torch.distributions.Independent(q, 1) and return one cost for the batch.",
            ), True
    return None, replaced_one


def position(cost: Cost, points: Tensor) -> Finding | None:
    """Whether a point costs the same at another place of the sample dimension, and when it is called with fewer."""
    costs = cost(points)
    turned = cost(points.roll(1, 0)).roll(-1, 0)
    fewer = cost(points[:1])
    change = max(float((turned - costs).abs().max()), float((fewer - costs[:1]).abs().max()))
    if change <= tolerance(costs, points):
        return None
    return Finding(
        "f counts samples",
        "error",
        f"f gives the same point another cost at another place of the sample dimension, or among fewer samples: up to "
        f"{change:.3g} more or less. The samples are exchangeable, so the gradient is that of no f. Let the cost "
        "depend on the point and the batch element only, not on the index or the number of the samples (a mask or "
        "weights of shape [k], say).",
    )


def varied(cost: Cost, points: Tensor, generator: Generator) -> Tensor:
    """The points. Where all cost the same, half of them are replaced by others, if a search finds another cost."""
    costs, half = cost(points), len(points) // 2
    if float((costs - costs[:1]).abs().max()) > tolerance(costs, points):
        return points
    for _ in range(PIECES):
        drawn = cost.variables.sample(DRAWS, generator)
        change = (cost(drawn) - costs[:1]).abs()  # [draws, *batch]
        if float(change.max()) > tolerance(costs, points):
            index = unsqueeze_to(change.argmax(0, keepdim=True), drawn.dim())
            found = drawn.take_along_dim(index, 0)  # [1, *batch, *event]
            return torch.cat((points[:half], found.expand(len(points) - half, *found.shape[1:])))
    return points


def indifference(cost: Cost, points: Tensor) -> tuple[Finding | None, bool]:
    """Whether all points of `varied` cost the same; and whether they differ at all."""
    if bool((points == points[:1]).all()):
        return None, False
    costs = cost(points)
    change = float((costs - costs[:1]).abs().max())
    if change > tolerance(costs, points):
        return None, True
    if change > tolerance(costs, points, SAME):
        return Finding(
            "offset in f",
            "warning",
            f"f changes by {change:.3g} over {len(points)} draws, on costs of {float(costs.abs().max()):.3g}: it "
            "loses digits to that offset, and so does the gradient. Subtract a constant inside f, before its terms "
            "are rounded.",
        ), True
    return Finding(
        "f ignores x",
        "error",
        f"f ignores x: it gave {len(points) + PIECES * DRAWS} draws the same cost, so the gradient for φ is zero (or "
        "the points of another cost are rarer than that). Use the argument that f is called with, not a sample from "
        "elsewhere; check that nothing rounds or overwrites it.",
    ), True


def jump(cost: Cost, points: Tensor) -> Finding | None:
    """Look along lines between points for a change that does not shrink with the step."""
    half = len(points) // 2
    starts, ends = points[:half], points[half : 2 * half]  # [lines, *batch, *event]
    event_ndim = len(cost.dist.event_shape)

    def along(t: Tensor) -> Tensor:
        """Costs at [parts, lines, *batch] positions."""
        position = t.reshape(t.shape + (1,) * event_ndim).to(points.dtype)
        spread = torch.lerp(starts.expand(len(t), *starts.shape), ends.expand(len(t), *ends.shape), position)
        costs = cost(spread.flatten(0, 1))
        return costs.reshape(len(t), half, *costs.shape[1:])

    left = torch.zeros(half, *points.shape[1 : points.dim() - event_ndim], dtype=torch.float64, device=points.device)
    width = torch.ones_like(left)
    grid = torch.linspace(0, 1, PARTS + 1, dtype=torch.float64, device=points.device)
    grid = grid.reshape(-1, *(1,) * left.dim())
    steps, least = [], 0.0
    for _ in range(LEVELS):
        costs = along(left + width * grid)  # [parts + 1, lines, *batch]
        least = max(least, SMALLEST_JUMP * float(costs.max() - costs.min()), tolerance(costs, points))
        changes = costs.diff(dim=0)
        # A jump differs from the changes beside it; the steep part of a smooth f does not.
        padded = torch.cat([changes[1:2], changes, changes[-2:-1]])
        surprise = (changes - (padded[:-2] + padded[2:]) / 2).abs()
        worst = surprise.argmax(0, keepdim=True)
        steps.append(changes.gather(0, worst).squeeze(0).abs())
        width = width / PARTS
        left = left + width * worst.squeeze(0)
    stays = (steps[-1] > least) & (steps[-1] > steps[-2] / 2) & (steps[-2] > steps[-3] / 2)
    if not bool(stays.any()):
        return None
    size = float(steps[-1][stays].max())
    return Finding(
        "jump in f",
        "error",
        f"f jumps by {size:.3g} between two points that differ by a millionth of a draw's spread. The derivative of f "
        "does not show a jump, so a gradient computed from it is wrong, and nothing warns of it. Use ScoreFunction, or "
        'any estimator whose `needs` is "black box", or make f continuous.',
    )


def _index(flat: int, shape: tuple[int, ...]) -> list[int]:
    return [int(i) for i in torch.unravel_index(torch.tensor(flat), shape)]
