"""Jigsaws of handwritten digits: a network puts shuffled tiles where they belong, by a distribution over permutations.

Each image is cut into 2 × 2 (or 3 × 3) tiles, which are shuffled. The network sees the tiles in their shuffled order,
and gives a score to each pair of a place and a tile. P follows sp.Matching(scores), exactly normalized over all n!
permutations. It learns from pictures alone, not from where each tile came from:

    E_P[squared distance of the assembled picture to the image]

This cost is a sum over the places, so it is linear in P, and the expectation needs nothing but the marginals q.mean. So
one way is exact, and shows what the others lose:

- marginals: the exact expectation, ⟨q.mean, distances⟩.
- ScoreFunction: from four permutations, which may cost what they like. Without bias.
- DoubleCV: the same with the derivative of f. For a linear f and a coefficient of 1 its noise is 0.
- Sinkhorn: of scores with Gumbel noise, a doubly stochastic matrix in the place of P (Gumbel-Sinkhorn). Biased:
  pictures are blends.
- likelihood: told where each tile came from. (Blank tiles are all alike, and the likelihood punishes taking the other.)

What counts is the share of held-out images that the most probable permutation puts together without an error. Run:

    python examples/jigsaw.py --seeds 3                                  # some minutes
    python examples/jigsaw.py --side 3 --estimator marginals DoubleCV
    python examples/jigsaw.py --fast                                     # seconds
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

import sampleprop as sp
import training
from sampleprop import noise
from sampleprop.estimator import Estimator

SAMPLES = 4  # of the permutation, for each image
ESTIMATORS: dict[str, Callable[[], Estimator[Any, Any] | None]] = {
    "marginals": lambda: None,
    "ScoreFunction": lambda: sp.ScoreFunction(SAMPLES),
    "DoubleCV": lambda: sp.DoubleCV(SAMPLES),
    "Sinkhorn": lambda: None,
    "likelihood": lambda: None,
}
BIASED = ("Sinkhorn",)
HIDDEN = 64
TEMPERATURE, ROUNDS = 0.5, 20  # of Sinkhorn's algorithm
BATCH, RATE = 50, 3e-3
STEPS, EVERY = 400, 50


class Solver(nn.Module):
    """Scores of tiles for places. In whatever order the tiles come, each gets the same scores."""

    def __init__(self, places: int, pixels: int) -> None:
        super().__init__()
        self.alone = nn.Linear(pixels, HIDDEN)
        self.together = nn.Linear(2 * HIDDEN, HIDDEN)
        self.scores = nn.Linear(HIDDEN, places)

    def forward(self, tiles: Tensor) -> Tensor:
        """[images, places, tiles] for tiles [images, tiles, pixels]."""
        hidden = self.alone(tiles).relu()
        others = hidden.mean(-2, keepdim=True).expand_as(hidden)
        found: Tensor = self.scores(self.together(torch.cat((hidden, others), -1)).relu())
        return found.mT


def cut(images: Tensor, side: int, tiles: int) -> Tensor:
    """Images [N, side²] as [N, tiles², pixels]; a margin of zeros makes the division whole."""
    squares = functional.pad(images.view(-1, side, side), (0, -side % tiles, 0, -side % tiles))
    width = squares.shape[-1] // tiles
    return squares.unflatten(2, (tiles, width)).unflatten(1, (tiles, width)).movedim(2, 3).flatten(3).flatten(1, 2)


def shuffled(tiles: Tensor, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
    """The tiles of each image in a random order, and the permutation matrix [N, places, tiles] that undoes it."""
    order = torch.rand(tiles.shape[:2], generator=generator).argsort(-1)
    place = functional.one_hot(order, tiles.shape[1]).to(tiles)  # [N, tiles, places]
    return place @ tiles, place.mT


def distances(tiles: Tensor, whole: Tensor) -> Tensor:
    """[N, places, tiles]: the squared distance of each tile to what is at each place."""
    return (whole.unsqueeze(-2) - tiles.unsqueeze(-3)).square().sum(-1)


def sinkhorn(scores: Tensor) -> Tensor:
    """Rows and columns divided by their sums in turn."""
    for _ in range(ROUNDS):
        scores = scores.log_softmax(-1).log_softmax(-2)
    return scores.exp()


def loss(
    name: str, estimator: Estimator[Any, Any] | None, scores: Tensor, tiles: Tensor, whole: Tensor, place: Tensor
) -> Tensor:
    """[images]."""
    q = sp.Matching(scores)
    if name == "likelihood":
        return -q.log_prob(place)
    costs = distances(tiles, whole)
    if name == "marginals":
        return (q.mean * costs).sum((-1, -2))
    if estimator is not None:
        return sp.expect(lambda p: (p * costs).sum((-1, -2)), q, estimator)
    blend = sinkhorn((scores + noise.gumbel(scores.shape, scores)) / TEMPERATURE)
    return (whole - blend @ tiles).square().sum((-1, -2))


def train(
    name: str, seed: int, tiles: int, images: tuple[Tensor, Tensor], side: int, steps: int, path: Path, resume: bool
) -> training.History:
    torch.manual_seed(seed)
    whole, held_out = (cut(x, side, tiles) for x in images)
    model = Solver(tiles**2, whole.shape[-1])
    estimator = ESTIMATORS[name]()
    learned = [*model.parameters(), *(estimator.parameters() if estimator else ())]
    optimizer = torch.optim.Adam(learned, lr=RATE)
    test, _ = shuffled(held_out, Generator().manual_seed(0))

    def step() -> None:
        pictures = whole[torch.randint(len(whole), (BATCH,))]
        mixed, undone = shuffled(pictures)
        optimizer.zero_grad()
        loss(name, estimator, model(mixed), mixed, pictures, undone).mean().backward()
        optimizer.step()

    def measure() -> dict[str, float]:
        picture = sp.Matching(model(test)).mode @ test
        wrong = (picture - held_out).abs().amax(-1) > 1e-6  # [N, places]; another blank tile is as good
        solved, in_place = (~wrong.any(-1)).double().mean(), (~wrong).double().mean()
        return {"solved": 100 * float(solved), "in place": 100 * float(in_place)}

    state: dict[str, training.Stateful] = {"model": model, "optimizer": optimizer}
    return training.train(
        f"{name}, seed {seed}", step, measure, steps, every=EVERY,
        state=state | ({"estimator": estimator} if estimator else {}), path=path, resume=resume,
        settings={"estimator": name, "seed": seed, "tiles": tiles, "side": side},
    )  # fmt: skip


def main() -> None:
    parser = training.parser("jigsaw", __doc__, ESTIMATORS)
    parser.add_argument("--side", type=int, choices=(2, 3), default=2, help="tiles along a side of the image")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = training.load(parser, arguments)
    images = data.training.images, data.held_out.images
    steps = arguments.steps or (20 if arguments.fast else STEPS)

    def one(name: str, seed: int) -> training.History:
        path = arguments.out / f"{arguments.data}-{arguments.side}-{name}-{seed}.pt"
        return train(name, seed, arguments.side, images, data.side, steps, path, arguments.resume)

    histories = training.each(arguments, training.chosen(arguments, ESTIMATORS), one)
    rows = [
        [name + (" (biased)" if name in BIASED else ""),
         *(training.mean_and_error([history[-1][key] for history in runs]) for key in ("solved", "in place"))]
        for name, runs in histories.items()
    ]  # fmt: skip
    print(training.table(("learned by", "images solved, %", "tiles in place, %"), rows))
    picture = arguments.out / f"{arguments.data}-{arguments.side}.png"
    training.curves(
        picture, histories, {"solved": "held-out images solved, %", "in place": "tiles in place, %"}, BIASED
    )
    print(f"saved {picture}")


if __name__ == "__main__":
    training.run(main)
