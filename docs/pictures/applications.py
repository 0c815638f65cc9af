"""One training under four estimators, as on the page "Applications": the held-out bound by the steps."""

from collections.abc import Callable

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from sklearn.datasets import load_digits
from torch import Tensor
from torch.distributions import Bernoulli, Independent, kl_divergence
from torch.nn import Linear, ReLU, Sequential
from torch.nn.functional import binary_cross_entropy_with_logits

import sampleprop as sp
from pictures.measure import AnyEstimator, Data, measured
from pictures.style import BIASED, INK, MUTED, PALE, UNBIASED, bare, figure, panels, say, ticks

STEPS, EVERY, SEEDS, BITS = 300, 25, 6, 8
IMAGES = torch.tensor(load_digits().data / 16 > 0.5).float()  # [1797, 64]
TRAINING, HELD_OUT = IMAGES[:1500], IMAGES[1500:]
ESTIMATORS: dict[str, Callable[[], AnyEstimator]] = {
    "no baseline": lambda: sp.ScoreFunction(1, baseline=sp.Constant(0.0)),
    "leave-one-out": lambda: sp.ScoreFunction(4),
    "Gumbel-softmax": sp.GumbelSoftmax,
    "REBAR": sp.REBAR,
}

LOOKS = {
    "no baseline": (UNBIASED, (0, (2, 2))),
    "leave-one-out": (UNBIASED, "-"),
    "Gumbel-softmax": (BIASED, "-"),
    "REBAR": (UNBIASED, (0, (5, 1))),
}


def train(estimator: AnyEstimator, seed: int) -> tuple[list[float], list[Tensor]]:
    """The negative bound of held-out images along the way; a few of them, their bits and their reconstructions."""
    torch.manual_seed(seed)
    encoder = Sequential(Linear(64, 64), ReLU(), Linear(64, BITS))
    decoder = Sequential(Linear(BITS, 64), ReLU(), Linear(64, 64))

    def bound(x: Tensor, estimator: AnyEstimator) -> Tensor:
        q = Independent(Bernoulli(logits=encoder(x)), 1)

        def reconstruction(z: Tensor) -> Tensor:
            pixels = decoder(z)
            return binary_cross_entropy_with_logits(pixels, x.expand_as(pixels), reduction="none").sum(-1)

        prior = Independent(Bernoulli(logits=torch.zeros(len(x), BITS)), 1)
        return (sp.expect(reconstruction, q, estimator) + kl_divergence(q, prior)).mean()

    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters(), *estimator.parameters()], lr=3e-3)
    curve = []
    for step in range(STEPS + 1):
        if step % EVERY == 0:
            with torch.no_grad(), torch.random.fork_rng():
                curve.append(bound(HELD_OUT, sp.ScoreFunction(16)).item())
        loss = bound(TRAINING[torch.randint(1500, (64,))], estimator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        code = (encoder(HELD_OUT[:3]) > 0).float()
        return curve, [HELD_OUT[:3], code, decoder(code).sigmoid()]


def numbers(seeds: int = SEEDS) -> Data:
    """Means over the seeds."""
    found: Data = {"steps": list(range(0, STEPS + 1, EVERY)), "seeds": seeds}
    for name, make in ESTIMATORS.items():
        runs = [train(make(), seed) for seed in range(seeds)]
        curves = torch.tensor([curve for curve, _ in runs])
        found[name] = [measured(curves[:, i]) for i in range(curves.shape[1])]
        if name == "REBAR":
            found["images"] = [[[round(v, 2) for v in row] for row in part.tolist()] for part in runs[0][1]]
    return found


def draw(data: Data) -> Figure:
    """Images, bits and reconstructions; four curves."""
    fig = figure(2.7)
    left, right = panels(fig, (1, 1.25))
    bare(left)
    images, codes, again = (torch.tensor(part) for part in data["images"])
    for i in range(3):
        for column, image in ((0, images[i]), (1, again[i])):
            for place, value in enumerate(image.tolist()):
                if value > 0.04:
                    corner = column * 25 + place % 8, i * 10 + place // 8
                    color = UNBIASED if column else INK
                    left.add_patch(Rectangle(corner, 1, 1, fc=color, alpha=value, lw=0))
        for k, bit in enumerate(codes[i].tolist()):
            left.plot(11 + 1.55 * k, i * 10 + 4, "s", ms=4.6, mew=1.2, color=UNBIASED if bit else PALE)
    left.set_xlim(-1, 34)
    left.set_ylim(29, -4)
    left.set_aspect("equal")
    for x, text in ((0, "image"), (11, "eight bits"), (25, "decoded")):
        say(left, x, -2.4, text, MUTED, fontsize=8.5)
    left.set_title("A discrete autoencoder")
    placed = 100.0
    for name in sorted(LOOKS, key=lambda each: -data[each][-1]["mean"]):
        color, style = LOOKS[name]
        right.plot(data["steps"], [each["mean"] for each in data[name]], color=color, ls=style)
        placed = min(data[name][-1]["mean"], placed - 0.24)
        say(right, STEPS + 6, placed, name, color, fontsize=8.5)
    right.set_xlim(25, STEPS + 105)
    right.set_ylim(21.5, 26)
    ticks(right, "x", [50, 100, 200, 300])
    ticks(right, "y", [22, 24, 26])
    right.set_title("Held-out images")
    right.set_xlabel("steps of Adam", loc="left")
    right.set_ylabel("negative ELBO, nats", loc="top")
    return fig
