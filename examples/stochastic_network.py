"""A generative model with two stochastic layers, trained by five estimators, as a program.

A sigmoid belief network: the prior p(b2), the layers p(b1 | b2) and p(x | b1), and encoders q(b1 | x) and q(b2 | b1),
all of Bernoulli variables. The loss is the negative ELBO, written as a program: `sp.sample` draws the bits where they
are needed.

The table has, over the seeds, the ELBO of training and held-out images and the bound of 1000 samples, always with true
samples; the logarithm of the variance of the gradient of all encoders at the end; and the milliseconds of a step. Run:

    python examples/stochastic_network.py                                        # some minutes
    python examples/stochastic_network.py --data fashion-mnist --estimator ScoreFunction REBAR --steps 4000
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent
from torch.nn.functional import logsigmoid

import sampleprop as sp
import training

BATCH, RATE, LEARNING_RATE = 24, 1e-3, 3e-3
STEPS, FAST_STEPS = 2000, 20
MEASURED, REPEATS = 1000, 100  # the most images of the bounds; gradients whose variance is measured


def log_bits(bits: Tensor, logits: Tensor) -> Tensor:
    """The log-probability of bits, also of relaxed ones, which lie between 0 and 1: [..., n] -> [...]."""
    return (bits * logsigmoid(logits) + (1 - bits) * logsigmoid(-logits)).sum(-1)


def sites(logits: Tensor) -> Independent:
    return Independent(Bernoulli(logits=logits, validate_args=False), 1, validate_args=False)


class Network(nn.Module):
    """x <- b1 <- b2, and encoders the other way. The estimators belong to it, because they learn."""

    def __init__(self, pixels: int, width: int, make: Callable[[int], sp.Estimator[Any, Any]]) -> None:
        super().__init__()
        self.encoder1, self.encoder2 = nn.Linear(pixels, width), nn.Linear(width, width)
        self.decoder1, self.decoder2 = nn.Linear(width, pixels), nn.Linear(width, width)
        self.prior = nn.Parameter(torch.zeros(width))
        self.estimators = nn.ModuleList([make(pixels), make(pixels)])

    def log_joint(self, x: Tensor, b1: Tensor, b2: Tensor) -> Tensor:
        return log_bits(x, self.decoder1(b1)) + log_bits(b1, self.decoder2(b2)) + log_bits(b2, self.prior)

    @sp.program
    def negative_elbo(self, x: Tensor) -> Tensor:
        first, second = self.estimators
        logits1 = self.encoder1(x)
        b1 = sp.sample(sites(logits1), first, context=x)
        sp.charge(log_bits(b1, logits1.detach()))  # its own gradient has mean zero, so it is left out
        logits2 = self.encoder2(b1)
        b2 = sp.sample(sites(logits2), second, context=x)
        return log_bits(b2, logits2.detach()) - self.log_joint(x, b1, b2)

    def log_weights(self, x: Tensor, k: int) -> Tensor:
        """log p(x, b1, b2) - log q(b1, b2 | x) at k true samples, [k, n]."""
        logits1 = self.encoder1(x)
        b1 = sites(logits1).sample((k,))
        logits2 = self.encoder2(b1)
        b2 = sites(logits2).sample()
        return self.log_joint(x, b1, b2) - log_bits(b1, logits1) - log_bits(b2, logits2)

    def model(self) -> list[nn.Parameter]:
        """All parameters but those of the estimators."""
        own = set(self.estimators.parameters())
        return [parameter for parameter in self.parameters() if parameter not in own]


def baseline(pixels: int) -> sp.LearnedBaseline:
    return sp.LearnedBaseline(nn.Sequential(nn.Linear(pixels, 100), nn.Tanh(), nn.Linear(100, 1), nn.Flatten(0)))


ESTIMATORS: dict[str, tuple[Callable[[int], sp.Estimator[Any, Any]], int]] = {  # and how many particles
    "ScoreFunction": (lambda pixels: sp.ScoreFunction(None), 8),
    "MuProp": (lambda pixels: sp.MuProp(None, learn=True), 1),
    "REBAR": (lambda pixels: sp.REBAR(None, coupled=True, mean_field=True, baseline=baseline(pixels)), 1),
    "RELAX": (lambda pixels: sp.RELAX(None, coupled=True), 1),
    "StraightThrough": (lambda pixels: sp.StraightThrough(None), 1),
}


def train(name: str, seed: int, images: tuple[Tensor, Tensor], arguments: argparse.Namespace) -> dict[str, Any]:
    """One training, and what it ends with."""
    gray, held_out = images
    torch.manual_seed(seed)
    make, particles = ESTIMATORS[name]
    network = Network(gray.shape[1], arguments.width, make)
    optimizer = torch.optim.Adam(
        [{"params": network.model(), "lr": RATE}, {"params": network.estimators.parameters(), "lr": LEARNING_RATE}]
    )
    loss = network.negative_elbo.using(particles=particles) if particles > 1 else network.negative_elbo
    known = gray[:MEASURED].bernoulli(generator=torch.Generator().manual_seed(1))
    seconds: list[float] = []

    def step() -> None:
        start = time.perf_counter()
        optimizer.zero_grad()
        loss(gray[torch.randint(len(gray), (BATCH,))].bernoulli()).mean().backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)

    def measure() -> dict[str, float]:
        parts = {"training": known, "held out": held_out}
        return {part: training.bounds(network.log_weights, x, samples=8)[0] for part, x in parts.items()}

    history = training.train(
        f"{name}, seed {seed}",
        step,
        measure,
        arguments.steps,
        every=10 if arguments.fast else 100,
        state={"network": network, "optimizer": optimizer},
        path=arguments.out / f"{arguments.data}-{name}-{seed}.pt",
        settings={"data": arguments.data, "width": arguments.width, "fast": arguments.fast},
        resume=arguments.resume,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        elbo, bound = training.bounds(network.log_weights, held_out, 50 if arguments.fast else 1000)
    return {
        "history": history,
        "training": history[-1]["training"],
        "elbo": elbo,
        "bound": bound,
        "log variance": log_variance(network, loss, known[:BATCH]),
        "milliseconds": 1000 * statistics.median(seconds) if seconds else math.nan,
    }


def log_variance(network: Network, loss: sp.program[...], x: Tensor) -> float:
    """The logarithm of the mean variance of the encoders' gradient, with the estimators as they are."""
    encoders = [*network.encoder1.parameters(), *network.encoder2.parameters()]
    found = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network.estimators.eval()
        for _ in range(REPEATS):
            gradients = torch.autograd.grad(loss(x).mean(), encoders)
            found.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return float(torch.stack(found).var(0).mean().log())


def report(runs: dict[str, list[dict[str, Any]]]) -> str:
    keys = ("training", "elbo", "bound", "log variance", "milliseconds")
    head = ("estimator", "ELBO, training", "ELBO, held out", "bound of 1000", "log variance", "ms for a step")
    rows = [
        (name, *(training.mean_and_error([result[key] for result in results]) for key in keys))
        for name, results in runs.items()
    ]
    return training.table(head, rows)


def main() -> None:
    parser = training.parser("stochastic_network", __doc__, ESTIMATORS)
    parser.add_argument("--width", type=training.count, help="of each stochastic layer")
    arguments = parser.parse_args()
    arguments.steps = arguments.steps or (FAST_STEPS if arguments.fast else STEPS)
    arguments.width = arguments.width or (50 if arguments.data == "digits" else 200)
    loaded = training.load(parser, arguments)
    held_out = loaded.held_out.images.bernoulli(generator=torch.Generator().manual_seed(0))
    images = loaded.training.images, held_out[: 50 if arguments.fast else MEASURED]
    names = training.chosen(arguments, ESTIMATORS)
    runs = training.each(arguments, names, lambda name, seed: train(name, seed, images, arguments))
    print(report(runs))
    picture = arguments.out / f"{arguments.data}.png"
    panels = {"training": "ELBO of training images, nats", "held out": "ELBO of held-out images, nats"}
    histories = {name: [result["history"] for result in results] for name, results in runs.items()}
    training.curves(picture, histories, panels, dashed=[name for name in runs if name == "StraightThrough"])
    print(f"saved {picture}")


if __name__ == "__main__":
    training.run(main)
