"""A variational autoencoder with continuous latents, trained by many estimators at equal evaluations of the decoder.

An encoder gives the means and scales of q(z | x), eight independent normal variables, a decoder p(x | z) of binary
pixels, and p(z) is standard normal. There are three objectives, of which all have the same bound log p(x):

- `Pathwise` and `ScoreFunction` estimate the reconstruction E_q[log p(x | z)]; the KL divergence is in closed form.
- `StickingTheLanding` estimates the ELBO E_q[log p(x, z) - log q(z | x)] as a whole, which leaves no noise once q is
  the posterior.
- `ImportanceWeighted` and `DoublyReparameterized` maximize the bound of as many samples as `--evaluations` pay for.

The table at the end has, over the seeds, the ELBO of training and held-out images and the bound of 1000 samples. Beside
it the variance of the objective's gradient by q's parameters for one image: along each training, by `sp.Monitor`, and
of all estimators on one model, by `sp.compare`, which compares those of one objective. Run:

    python examples/continuous_vae.py                                  # some minutes
    python examples/continuous_vae.py --estimator Pathwise StickingTheLanding --seeds 3
    python examples/continuous_vae.py --data fashion-mnist --steps 6000
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn.functional import binary_cross_entropy_with_logits

import sampleprop as sp
import training
from sampleprop.diagnostics import Comparison, Row

Estimator = sp.Estimator[Any, Any]
ESTIMATORS: dict[str, Callable[[int], Estimator]] = {
    "Pathwise": sp.Pathwise,
    "ScoreFunction": sp.ScoreFunction,  # each sample's baseline is the mean of the others
    "PlainScoreFunction": lambda samples: sp.ScoreFunction(samples, baseline=sp.Constant(0.0)),
    "StickingTheLanding": sp.StickingTheLanding,
    "ImportanceWeighted": sp.ImportanceWeighted,
    "DoublyReparameterized": sp.DoublyReparameterized,
}
LATENTS, HIDDEN, BATCH, RATE = 8, 128, 100, 2e-3
STEPS, FAST_STEPS = 2000, 20
MEASURED, COMPARED = 1000, 16  # images: of the learning curves, and of `sp.compare`


class VAE(nn.Module):
    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(pixels, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENTS))
        self.decoder = nn.Sequential(nn.Linear(LATENTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, pixels))

    def posterior(self, x: Tensor) -> Independent:
        loc, log_scale = self.encoder(x).chunk(2, -1)
        return Independent(Normal(loc, log_scale.exp()), 1)

    def prior(self, x: Tensor) -> Independent:
        return Independent(Normal(torch.zeros(len(x), LATENTS), 1.0), 1)

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z): [n, pixels], [k, n, latents] -> [k, n]."""
        pixels = self.decoder(z)  # [k, n, pixels]
        return -binary_cross_entropy_with_logits(pixels, x.expand_as(pixels), reduction="none").sum(-1)

    def f(self, x: Tensor, estimator: Estimator) -> Callable[[Tensor], Tensor]:
        """What the estimator's objective is made of: log p(x | z), or log p(x, z) for those that subtract log q
        themselves."""
        if estimator.objective == "mean":
            return lambda z: self.log_likelihood(x, z)
        return lambda z: self.log_likelihood(x, z) + self.prior(x).log_prob(z)

    def loss(self, x: Tensor, estimator: Estimator, expect: Callable[..., Tensor]) -> Tensor:
        q = self.posterior(x)
        value = expect(self.f(x, estimator), q, estimator)  # [n]
        return kl_divergence(q, self.prior(x)) - value if estimator.objective == "mean" else -value

    def log_weights(self, x: Tensor, k: int) -> Tensor:
        """log p(x, z) - log q(z | x) at samples of q: [n, pixels] -> [k, n]."""
        q = self.posterior(x)
        z = q.sample((k,))
        return self.log_likelihood(x, z) + self.prior(x).log_prob(z) - q.log_prob(z)


def train(name: str, seed: int, images: tuple[Tensor, Tensor], arguments: argparse.Namespace) -> dict[str, Any]:
    """One training by one estimator: its model, its history and its numbers at the end."""
    gray, held_out = images
    torch.manual_seed(seed)
    model = VAE(gray.shape[1])
    estimator = ESTIMATORS[name](arguments.evaluations)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    every, probed = (10, 5) if arguments.fast else (100, 33)
    monitor = sp.Monitor(every=probed)
    known = gray[:MEASURED].bernoulli(generator=torch.Generator().manual_seed(1))

    def step() -> None:
        x = gray[torch.randint(len(gray), (BATCH,))].bernoulli()
        optimizer.zero_grad()
        model.loss(x, estimator, monitor.expect).mean().backward()
        optimizer.step()

    def measure() -> dict[str, float]:
        parts = {"training": known, "held out": held_out[:MEASURED]}
        return {part: training.bounds(model.log_weights, x, samples=8)[0] for part, x in parts.items()}

    history = training.train(
        f"{name}, seed {seed}",
        step,
        measure,
        arguments.steps,
        every=every,
        state={"model": model, "optimizer": optimizer, "monitor": monitor},
        path=arguments.out / f"{arguments.data}-{name}-{seed}.pt",
        settings={"label": estimator.label, "data": arguments.data, "fast": arguments.fast},
        resume=arguments.resume,
    )
    final = training.outcome(model.log_weights, held_out, history, monitor, fast=arguments.fast)
    return {"label": estimator.label, "model": model, "history": history} | final


def compared(model: VAE, x: Tensor, names: list[str], arguments: argparse.Namespace) -> list[Comparison]:
    """Variance and bias on one model, by the parameters of q of some images: a table for each objective."""
    model.requires_grad_(False)
    loc, scale = (p.requires_grad_() for p in (model.posterior(x).base_dist.loc, model.posterior(x).base_dist.scale))
    q = Independent(Normal(loc, scale), 1)
    groups: dict[str, list[Estimator]] = {}
    for name in names:
        estimator = ESTIMATORS[name](arguments.evaluations)
        groups.setdefault(estimator.objective, []).append(estimator)
    replicates = 128 if arguments.fast else 1024
    return [
        sp.compare(model.f(x, group[0]), q, group, budget=arguments.evaluations, replicates=replicates)
        for group in groups.values()
    ]


def report(runs: dict[str, list[dict[str, Any]]], rows: dict[str, Row]) -> str:
    """The table: who ends where, and how noisy the gradients were."""
    head = (
        "estimator",
        "ELBO, training",
        "ELBO, held out",
        "bound of 1000",
        "variance in training",
        "by compare",
        "bias",
    )
    lines = []
    for results in runs.values():
        row = rows[results[0]["label"]]
        means = [training.mean_and_error([result[key] for result in results]) for key in ("training", "elbo", "bound")]
        variance = statistics.fmean(result["variance"] for result in results)
        lines.append([row.label, *means, f"{variance:.3g}", f"{row.variance / COMPARED:.3g}", row.cells()[3]])
    return training.table(head, lines)


def main() -> None:
    parser = training.parser("continuous_vae", __doc__, ESTIMATORS)
    parser.add_argument(
        "--evaluations", type=training.count, default=8, help="of the decoder, for one image at one step"
    )
    arguments = parser.parse_args()
    arguments.steps = arguments.steps or (FAST_STEPS if arguments.fast else STEPS)
    loaded = training.load(parser, arguments)
    held_out = loaded.held_out.images.bernoulli(generator=torch.Generator().manual_seed(0))
    images = loaded.training.images, held_out[:50] if arguments.fast else held_out
    names = training.chosen(arguments, ESTIMATORS)
    runs = training.each(arguments, names, lambda name, seed: train(name, seed, images, arguments))
    # One model for all: the first estimator's, so that no one is judged where it has led itself.
    comparisons = compared(runs[names[0]][0]["model"], images[0][:COMPARED].round(), names, arguments)
    rows = {row.label: row for comparison in comparisons for row in comparison.rows}
    print(*comparisons, report(runs, rows), sep="\n\n")
    picture = arguments.out / f"{arguments.data}.png"
    panels = {"training": "ELBO of training images, nats", "held out": "ELBO of held-out images, nats"}
    histories = {results[0]["label"]: [result["history"] for result in results] for results in runs.values()}
    training.curves(picture, histories, panels, dashed=[])
    print(f"saved {picture}")


if __name__ == "__main__":
    training.run(main)
