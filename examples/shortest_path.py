"""Learning the costs of a map through a solver that is not ours: shortest paths by scipy.

Each map is the image of a handwritten digit, on which every pixel costs what it costs to step on it: little on paper,
much on ink. A path leads from one corner to the other, in eight directions. The network sees the map under heavy noise,
predicts a cost for each pixel, and scipy.sparse.csgraph.dijkstra finds the path that is shortest by these predictions.
What counts is what this path really costs. The solver knows nothing of torch, and its answer is piecewise constant in
the costs. So the predictions are perturbed: the path follows sp.PerturbAndMAP(-costs, solver).

- PerturbedScore: without bias for the perturbed path; it asks nothing but what eight walked paths cost.
- IMLE: solves once more with costs that are moved against the derivative of f. Biased.
- regression: no path at all; the squared error of the predicted costs, which must be known for every pixel.

Measured is by how much the path by the predictions, without perturbation, costs more than the best one, on held-out
maps. Run:

    python examples/shortest_path.py --seeds 3                           # some minutes
    python examples/shortest_path.py --estimator PerturbedScore
    python examples/shortest_path.py --fast                              # seconds
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra
from torch import Generator, Tensor, nn

import sampleprop as sp
import training
from sampleprop.estimator import Estimator

ESTIMATORS: dict[str, Callable[[], Estimator[Any, Any] | None]] = {
    "PerturbedScore": lambda: sp.PerturbedScore(8),
    "IMLE": lambda: sp.IMLE(4, step=1.0),
    "regression": lambda: None,
}
BIASED = ("IMLE",)
PAPER, INK = 0.2, 2.0  # what a pixel costs
NOISE = 0.4  # of what the network sees
LEAST = 0.01  # Dijkstra's algorithm takes no negative costs; perturbed ones below count as this
SCALE = 0.3  # σ, of the perturbation
BATCH, RATE = 16, 3e-3
STEPS, EVERY = 200, 25


@cache
def edges(side: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """From each pixel to its up to eight neighbours: where the edges of each pixel begin, and where they lead."""
    starts, ends = [0], []
    for row, column in np.ndindex(side, side):
        for i, j in np.ndindex(3, 3):
            neighbour = row + i - 1, column + j - 1
            if (i, j) != (1, 1) and min(neighbour) >= 0 and max(neighbour) < side:
                ends.append(neighbour[0] * side + neighbour[1])
        starts.append(len(ends))
    return np.array(starts, np.int32), np.array(ends, np.int32)


def shortest(scores: NDArray[Any]) -> NDArray[Any]:
    """The paths of least cost, as marks of the pixels they step on: [m, side, side] for minus the costs."""
    side = scores.shape[-1]
    starts, ends = edges(side)
    marks = np.zeros((len(scores), side**2), scores.dtype)
    for mark, score in zip(marks, scores.reshape(len(scores), -1), strict=True):
        graph = csr_matrix((np.maximum(-score, LEAST)[ends], ends, starts))
        before = dijkstra(graph, indices=0, return_predecessors=True)[1]
        pixel = side**2 - 1
        while pixel >= 0:  # the first pixel has a negative predecessor
            mark[pixel] = 1
            pixel = before[pixel]
    return marks.reshape(scores.shape)


def true_costs(images: Tensor, side: int) -> Tensor:
    return (PAPER + (INK - PAPER) * images).view(-1, side, side)


def network() -> nn.Sequential:
    """From noisy maps [N, side, side] to costs above 0."""
    layers = (nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1), nn.Softplus())
    return nn.Sequential(nn.Unflatten(1, (1, -1)), *layers, nn.Flatten(1, 2))


def walked(costs: Tensor) -> sp.PerturbAndMAP:
    """The law of the shortest path by these costs, perturbed."""
    return sp.PerturbAndMAP(-costs, shortest, scale=SCALE, event_ndim=2, numpy=True)


def loss(estimator: Estimator[Any, Any] | None, predicted: Tensor, true: Tensor) -> Tensor:
    """[maps]."""
    if estimator is None:
        return (predicted - true).square().sum((-1, -2))
    return sp.expect(lambda path: (path * true).sum((-1, -2)), walked(predicted), estimator)


def train(
    name: str, seed: int, images: tuple[Tensor, Tensor], side: int, steps: int, path: Path, resume: bool
) -> training.History:
    torch.manual_seed(seed)
    maps, held_out = (true_costs(x, side) for x in images)
    model, estimator = network(), ESTIMATORS[name]()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    seen = held_out + NOISE * torch.randn(held_out.shape, generator=Generator().manual_seed(0))
    best = (walked(held_out).mode * held_out).sum((-1, -2))

    def step() -> None:
        true = maps[torch.randint(len(maps), (BATCH,))]
        optimizer.zero_grad()
        loss(estimator, model(true + NOISE * torch.randn_like(true)), true).mean().backward()
        optimizer.step()

    def measure() -> dict[str, float]:
        found = (walked(model(seen)).mode * held_out).sum((-1, -2))
        return {
            "excess": 100 * float((found / best - 1).mean()),
            "best": 100 * float((found < best + 1e-4).double().mean()),
        }

    return training.train(
        f"{name}, seed {seed}", step, measure, steps, every=EVERY, state={"model": model, "optimizer": optimizer},
        path=path, resume=resume, settings={"estimator": name, "seed": seed, "side": side},
    )  # fmt: skip


def main() -> None:
    parser = training.parser("shortest_path", __doc__, ESTIMATORS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = training.load(parser, arguments)
    images = data.training.images, data.held_out.images[: 20 if arguments.fast else None]
    steps = arguments.steps or (5 if arguments.fast else STEPS)

    def one(name: str, seed: int) -> training.History:
        path = arguments.out / f"{arguments.data}-{name}-{seed}.pt"
        return train(name, seed, images, data.side, steps, path, arguments.resume)

    histories = training.each(arguments, training.chosen(arguments, ESTIMATORS), one)
    rows = [
        [name + (" (biased)" if name in BIASED else ""),
         *(training.mean_and_error([history[-1][key] for history in runs]) for key in ("excess", "best"))]
        for name, runs in histories.items()
    ]  # fmt: skip
    print(training.table(("learned by", "above the best path, %", "maps with the best path, %"), rows))
    picture = arguments.out / f"{arguments.data}.png"
    training.curves(picture, histories, {"excess": "cost above the best path, %", "best": "best path found, %"}, BIASED)
    print(f"saved {picture}")


if __name__ == "__main__":
    training.run(main)
