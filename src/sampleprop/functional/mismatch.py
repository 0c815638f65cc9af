"""Whether draws are what their log-probabilities say.

Source: no paper. The ratio test uses that the mean of π / μ is at most 1 where π has not seen the token; the surprise
test uses that the surprise less the entropy is a martingale difference under π.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from sampleprop.functional import arguments

NAME = "mismatch"
SIGNIFICANT = 4.0  # standard errors
EXACT = 2e-3  # nats; float32 gives less, bfloat16 more
ROUNDING = 0.03  # nats; the most that was seen of bfloat16
FEW = 50  # steps, below which a pattern is chance


@dataclass(frozen=True)
class Mismatch:
    """How the learner's log-probabilities log π differ from the recorded ones, log μ; NaN for what was not measured.

    Attributes:
        steps: the number of steps that were compared.
        draws: the number of draws.
        mean: the mean of log π - log μ over the steps, in nats; its expectation is -KL(μ ‖ π).
        rms: the root mean square of log π - log μ, in nats.
        worst: the largest absolute value of log π - log μ, in nats.
        above: the share of steps with log π > log μ.
        ratio: the mean of π / μ over the steps. Its expectation is the probability under π of the tokens that μ can
            draw. This is 1, or less if μ was truncated. It is larger only if π has seen the token.
        ratio_z: how many standard errors `ratio` is above 1.
        correlation: the correlation of log π and log μ over the steps.
        slope: the slope of a regression of log π - log μ on log μ.
        step_size: the effective sample size of the steps with the weights w = π / μ, as a share: (Σw)² / (n Σw²).
        draw_size: the same for whole draws.
        outside: the share of steps with a ratio outside (0.8, 1.25).
        fitting: the share of draws in which log π and log μ agree.
        surprise: the mean of -log π minus the entropy, in nats for each step; its expectation is 0 for draws of π.
        surprise_z: the same in standard errors over the draws.
        hints: the patterns in the numbers, in words.
    """

    steps: int
    draws: int
    mean: float = math.nan
    rms: float = math.nan
    worst: float = math.nan
    above: float = math.nan
    ratio: float = math.nan
    ratio_z: float = math.nan
    correlation: float = math.nan
    slope: float = math.nan
    step_size: float = math.nan
    draw_size: float = math.nan
    outside: float = math.nan
    fitting: float = math.nan
    surprise: float = math.nan
    surprise_z: float = math.nan
    hints: tuple[str, ...] = ()

    def __str__(self) -> str:
        numbers = [(f.name, getattr(self, f.name)) for f in fields(self) if f.name != "hints"]
        lines = [f"{name:12} {value:.4g}" for name, value in numbers if not math.isnan(value)]
        return "\n".join([*lines, *(f"- {hint}" for hint in self.hints)])


@torch.no_grad()
def mismatch(
    log_prob: Tensor,
    behaviour_log_prob: Tensor | None = None,
    *,
    time_dim: int,
    mask: Tensor | None = None,
    entropy: Tensor | None = None,
) -> Mismatch:
    r"""Compare the learner's log-probabilities of the draws with those that the sampler recorded.

    An inference server may sample at another temperature, truncate the distribution (top-k, top-p), pad on the other
    side, or hold an older policy. On-policy gradients are then wrong, without an error. Each of these mistakes leaves
    its own pattern in the numbers, and `hints` names it. The hints are rules of thumb, which were tuned on a tiny
    model. If a hint and the numbers disagree, trust the numbers.

    If you pass the entropy of each step, the draws themselves are tested too. This finds a mistake that no comparison
    can find: log-probabilities that were recorded before temperature and truncation. About 350 draws are needed to see
    a temperature of 0.9.

    Call it before training, and on a batch from time to time. It reads values, so it does not work in `torch.compile`.

    Args:
        log_prob: the learner's log-probabilities of the draws, [*draws] with the steps as one more dimension.
        behaviour_log_prob: those of the sampler, of the same shape; None to test the draws alone.
        time_dim: the dimension of the steps.
        mask: booleans of the same shape, True for the steps that were drawn; None for all.
        entropy: the entropy of the learner's distribution at each step, of the same shape; `token_terms` computes it.

    Returns:
        A `Mismatch`, which you can print.

    Raises:
        TypeError: for an argument that is not floating point.
        ValueError: for other shapes, neither `behaviour_log_prob` nor `entropy`, no step, and NaN or infinities.

    Example:
        >>> import torch, sampleprop as sp
        >>> logits = torch.tensor([1.0, 0.0, -1.0])
        >>> drawn = torch.distributions.Categorical(logits=logits / 0.7).sample((200, 20))
        >>> recorded = (logits / 0.7).log_softmax(0)[drawn]
        >>> print(sp.mismatch(logits.log_softmax(0)[drawn], recorded, time_dim=1).hints[0])
        The gap is -0.30 times log μ: the tokens were drawn at about 0.70 times the learner's temperature.
    """
    arguments.floating(NAME, "log_prob", log_prob)
    if behaviour_log_prob is None and entropy is None:
        raise ValueError(f"{NAME} needs behaviour_log_prob, entropy, or both, to compare with; got neither.")
    time = arguments.dimension(NAME, "time_dim", time_dim, log_prob.shape)
    if mask is None:
        mask = torch.ones_like(log_prob, dtype=torch.bool)
    arguments.flags(NAME, "mask", mask, "log_prob", log_prob.shape)
    if not bool(mask.any()):
        raise ValueError(f"{NAME} needs a step that the mask keeps; got none. Fix the mask.")

    def rows(name: str, x: Tensor) -> Tensor:
        arguments.floating(NAME, name, x)
        arguments.same_shape(NAME, name, x, "log_prob", log_prob.shape)
        arguments.finite(NAME, name, x, mask, fix="What was drawn has a finite one; mask padding.")
        return torch.where(mask, x.double(), 0).movedim(time, -1).reshape(-1, x.shape[time])  # [draws, time]

    learner = rows("log_prob", log_prob)
    keep = mask.movedim(time, -1).reshape(learner.shape)
    found = Mismatch(int(keep.sum()), int(keep.any(1).sum()))
    if entropy is not None:
        found = _surprise(found, learner + rows("entropy", entropy))
    if behaviour_log_prob is not None:
        found = _compared(found, learner, rows("behaviour_log_prob", behaviour_log_prob), keep)
    return replace(found, hints=(*_gap(found), *_surprising(found)))


def _surprise(found: Mismatch, less: Tensor) -> Mismatch:
    """`less` is by how much each step is less surprising than expected. Its sums over draws are independent."""
    total = -less.sum(1)
    error = total.square().sum().sqrt().clamp_min(1e-30)
    return replace(found, surprise=float(total.sum() / found.steps), surprise_z=float(total.sum() / error))


def _compared(found: Mismatch, learner: Tensor, sampler: Tensor, keep: Tensor) -> Mismatch:
    gaps = learner - sampler  # [draws, time], 0 where nothing was drawn
    gap, y, u = gaps[keep], learner[keep], sampler[keep]  # [steps]
    weight = gap.clamp(-60, 60).exp()
    whole = gaps.sum(1)[keep.any(1)]
    whole = (whole - whole.max()).exp()
    own = (gaps.square().sum(1) / keep.sum(1).clamp_min(1)).sqrt()[keep.any(1)]
    rms = float(gap.square().mean().sqrt())
    centered = u - u.mean()
    spread = centered.square().mean()
    deviation = (spread * (y - y.mean()).square().mean()).sqrt().clamp_min(1e-30)
    error = weight.std(correction=0) / math.sqrt(len(weight))
    return replace(
        found,
        mean=float(gap.mean()),
        rms=rms,
        worst=float(gap.abs().max()),
        above=float((gap > 1e-6).double().mean()),
        ratio=float(weight.mean()),
        ratio_z=float((weight.mean() - 1) / error.clamp_min(1e-30)),
        correlation=float((centered * (y - y.mean())).mean() / deviation),
        slope=float((centered * (gap - gap.mean())).mean() / spread.clamp_min(1e-30)),
        step_size=_effective(weight),
        draw_size=_effective(whole),
        outside=float(((weight < 0.8) | (weight > 1.25)).double().mean()),
        fitting=float((own < max(EXACT, 0.1 * rms)).double().mean()),
    )


def _effective(weights: Tensor) -> float:
    return float(weights.sum().square() / (len(weights) * weights.square().sum()))


def _gap(r: Mismatch) -> tuple[str, ...]:
    """What the gap looks like: the first rule that fits."""
    if math.isnan(r.rms):
        return ()
    if r.rms < EXACT:
        return ("The recorded log-probabilities are the learner's, to float32.",)
    if r.steps < FEW:
        return (f"The two differ; to tell a pattern, compare {FEW} steps or more.",)
    if r.ratio_z > SIGNIFICANT and r.ratio > 1.02:
        return (
            f"The mean ratio is {r.ratio:.2f}, and no distribution that has not seen the token exceeds 1: the "
            "learner's logits are shifted by a step.",
        )
    if r.above < 0.01 and r.mean < 0:
        return (
            f"log π <= log μ at every step: μ was truncated (top-k, top-p, min-p), and π has {r.ratio:.2f} of its "
            "probability there. Draw with top_k=0 and top_p=1, or mask the learner's logits.",
        )
    if 0.05 < r.fitting < 0.95:
        return (
            f"{r.fitting:.0%} of the draws fit, the others do not: positions or attention of padded prompts, or draws "
            "of an older policy.",
        )
    if r.correlation > 0.97 and abs(r.slope) > 0.02:
        return (
            f"The gap is {r.slope:+.2f} times log μ: the tokens were drawn at about {1 + r.slope:.2f} times the "
            "learner's temperature.",
        )
    if r.rms < ROUNDING:
        return (
            f"The gap's rms of {r.rms:.3f} is the size of bfloat16 rounding. That of a whole draw grows with the root "
            "of its length.",
        )
    return ("The gap has no pattern: dropout (train mode), an older policy, another head or adapter.",)


def _surprising(r: Mismatch) -> tuple[str, ...]:
    if not abs(r.surprise_z) > SIGNIFICANT:
        return ()
    by = f"({r.surprise_z:.0f} standard errors)"
    if r.surprise < 0:
        return (
            f"The tokens are {-r.surprise:.3f} nats less surprising than the learner's entropy {by}: they were drawn "
            "at a lower temperature or from a truncated distribution, whatever log-probabilities were recorded.",
        )
    return (
        f"The tokens are {r.surprise:.3f} nats more surprising than the learner's entropy {by}: they were not drawn "
        "from this distribution (a shift, positions, dropout, an older policy).",
    )
