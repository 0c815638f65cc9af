"""A mixture of experts in which exactly two of eight are asked for each image: the router learns without bias.

Eight small networks classify handwritten digits. A router gives each image a score for each expert, and the pair of
experts follows sp.KSubset(scores, 2). What the two say is averaged, so that

    E_{z ~ router(image)}[cross-entropy of the mean of the two experts' outputs] + BALANCE · 8/2 Σ (load - 2/8)²

is minimized over the router and the experts. The load of an expert is the mean over the images of its probability to
be asked, q.mean, which is exact and differentiable. The ways differ in how the router learns the first term:

- ScoreFunction, DoubleCV: without bias, from four pairs for each image.
- StraightThrough: through the marginals, as if f were linear in z (SIMPLE). Biased.
- gates: as is usual. The two largest noisy scores are taken, their softmax weighs the two outputs, and the router
  learns through these weights alone. Nothing tells it what an expert that was not asked would have said. Biased.
- no router: each pair is equally probable, whatever the image.

For held-out images the most probable pair is asked. Run:

    python examples/mixture_of_experts.py --seeds 3                      # a minute
    python examples/mixture_of_experts.py --estimator DoubleCV gates
    python examples/mixture_of_experts.py --fast                         # seconds
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import sampleprop as sp
import training
from data import Data
from sampleprop.estimator import Estimator

SAMPLES = 4  # of the pair, for each image
ESTIMATORS: dict[str, Callable[[], Estimator[Any, Any] | None]] = {
    "ScoreFunction": lambda: sp.ScoreFunction(SAMPLES),
    "DoubleCV": lambda: sp.DoubleCV(SAMPLES),
    "StraightThrough": lambda: sp.StraightThrough(SAMPLES),
    "gates": lambda: None,
    "no router": lambda: None,
}
BIASED = ("StraightThrough", "gates")
EXPERTS, ASKED, HIDDEN, CLASSES = 8, 2, 4, 10
BALANCE = 0.1
BATCH, RATE = 100, 3e-3
STEPS, EVERY = 600, 50


class Mixture(nn.Module):
    def __init__(self, pixels: int, name: str) -> None:
        super().__init__()
        self.name = name
        self.router = nn.Linear(pixels, EXPERTS)
        self.inner = nn.Linear(pixels, EXPERTS * HIDDEN)  # the first layers of all experts
        self.outer = nn.Parameter(torch.randn(EXPERTS, HIDDEN, CLASSES) / HIDDEN**0.5)
        self.estimator = ESTIMATORS[name]()

    def outputs(self, images: Tensor) -> Tensor:
        """Of all experts, [images, experts, classes]. A large model would compute those of the pair only."""
        hidden = self.inner(images).relu().unflatten(-1, (EXPERTS, HIDDEN))
        return torch.einsum("neh,ehc->nec", hidden, self.outer)

    def scores(self, images: Tensor) -> Tensor:
        found: Tensor = self.router(images)
        return torch.zeros_like(found) if self.name == "no router" else found

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        outputs = self.outputs(images)

        def cost(weights: Tensor) -> Tensor:
            """[..., images] for weights of the experts, [..., images, experts], of sum 1."""
            mixed = (weights.unsqueeze(-1) * outputs).sum(-2)  # [..., images, classes]
            return functional.cross_entropy(mixed.movedim(-1, 1), labels.expand(mixed.shape[:-1]), reduction="none")

        scores = self.scores(images)
        q = sp.KSubset(scores, ASKED)
        if self.estimator is not None:
            expected = sp.expect(lambda z: cost(z / ASKED), q, self.estimator)
        elif self.name == "gates":
            noisy = scores + torch.randn_like(scores) / EXPERTS
            kept = noisy.scatter(-1, noisy.topk(EXPERTS - ASKED, largest=False).indices, -torch.inf)
            expected = cost(kept.softmax(-1).unsqueeze(0))[0]
        else:
            expected = cost(q.sample((SAMPLES,)) / ASKED).mean(0)
        load = q.mean.mean(0)  # [experts]
        return expected.mean() + BALANCE * EXPERTS / ASKED * (load - ASKED / EXPERTS).square().sum()

    @torch.no_grad()
    def asked(self, images: Tensor) -> Tensor:
        """The weights of the experts of the most probable pair: [images, experts]."""
        scores = self.scores(images)
        chosen = sp.KSubset(scores, ASKED)
        if self.name == "no router":
            return chosen.sample() / ASKED
        if self.name == "gates":
            return torch.where(chosen.mode > 0, scores, -torch.inf).softmax(-1)
        return chosen.mode / ASKED

    @torch.no_grad()
    def measured(self, images: Tensor, labels: Tensor) -> dict[str, float]:
        weights = self.asked(images)
        mixed = (weights.unsqueeze(-1) * self.outputs(images)).sum(-2)
        load = (weights > 0).float().mean(0) / ASKED  # of sum 1
        return {
            "accuracy": 100 * float((mixed.argmax(-1) == labels).double().mean()),
            "experts in use": float(torch.special.entr(load).sum().exp()),
            "busiest": 100 * float(load.max()),
        }


def train(name: str, seed: int, data: Data, steps: int, path: Path, resume: bool) -> training.History:
    torch.manual_seed(seed)
    images, labels = data.training
    mixture = Mixture(images.shape[1], name)
    optimizer = torch.optim.Adam(mixture.parameters(), lr=RATE)

    def step() -> None:
        batch = torch.randint(len(images), (BATCH,))
        optimizer.zero_grad()
        mixture.loss(images[batch], labels[batch]).backward()
        optimizer.step()

    return training.train(
        f"{name}, seed {seed}", step, lambda: mixture.measured(*data.held_out), steps, every=EVERY,
        state={"mixture": mixture, "optimizer": optimizer}, path=path, resume=resume,
        settings={"estimator": name, "seed": seed, "pixels": images.shape[1]},
    )  # fmt: skip


def main() -> None:
    parser = training.parser("mixture_of_experts", __doc__, ESTIMATORS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = training.load(parser, arguments)
    steps = arguments.steps or (30 if arguments.fast else STEPS)

    def one(name: str, seed: int) -> training.History:
        path = arguments.out / f"{arguments.data}-{name}-{seed}.pt"
        return train(name, seed, data, steps, path, arguments.resume)

    histories = training.each(arguments, training.chosen(arguments, ESTIMATORS), one)
    keys = ("accuracy", "experts in use", "busiest")
    rows = [
        [name + (" (biased)" if name in BIASED else ""),
         *(training.mean_and_error([history[-1][key] for history in runs]) for key in keys)]
        for name, runs in histories.items()
    ]  # fmt: skip
    print(training.table(("router learns by", "accuracy, %", "experts in use", "busiest expert, %"), rows))
    picture = arguments.out / f"{arguments.data}.png"
    panels = {"accuracy": "accuracy on held-out images, %", "experts in use": f"experts in use, of {EXPERTS}"}
    training.curves(picture, histories, panels, dashed=BIASED)
    print(f"saved {picture}")


if __name__ == "__main__":
    training.run(main)
