"""What the measured value and gradient say, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch

from sampleprop.diagnostics.checking.findings import Finding, Findings
from sampleprop.diagnostics.measuring.reference import Yardstick
from sampleprop.diagnostics.measuring.statistics import POWER, Bias, percent, plus_minus, student
from sampleprop.diagnostics.measuring.tally import GROUPS, Moments

M = TypeVar("M", bound=Moments)


def judge_value(
    found: Findings, tally: M, reference: Yardstick[M], rounding: float, exact_forward: bool, fix: str = ""
) -> None:
    """Compare the value of all groups with the known one.

    Args:
        found: where the finding goes.
        tally: the estimates.
        reference: what is known.
        rounding: the relative error that floating point alone may cause.
        exact_forward: whether the estimates are made from true samples only.
        fix: what to do where they are wrong.
    """
    expected = reference.values(GROUPS)
    if expected is None:
        found.unchecked.append("the value of the estimate: it is not known")
        return
    differences = torch.tensor(tally.values, dtype=torch.float64) - expected
    rounded, total = rounding * float(expected.abs().max()), float(expected.mean())
    error = math.sqrt(float(differences.var()) / GROUPS + reference.unseen(tally).value + rounded**2)
    mean = float(differences.mean())
    if abs(mean) <= student(GROUPS) * error:
        visible = (student(GROUPS) + POWER) * error
        found.passed.append(
            f"the value, summed over the batch, is right: {total:.4g}; an error of {visible:.2g} would have been seen"
        )
        return
    found.add(
        Finding(
            "wrong value",
            "error" if exact_forward else "warning",
            f"the value, summed over the batch, is off by {plus_minus(mean, error)} for an expectation of "
            f"{total:.4g}.{fix}",
        )
    )


def judge_bias(
    found: Findings, bias: Bias, biased: Sequence[str], unbiased: str, reference: str, gradient: str, fix: str
) -> None:
    """Say whether the gradient is right, and which bias would have been seen.

    Args:
        found: where the finding goes.
        bias: what was measured.
        biased: the estimators that say of themselves that they are biased.
        unbiased: who says of itself that it is not.
        reference: in words.
        gradient: which gradient, in words.
        fix: where to look if it is wrong although it should be right.
    """
    power = f"the reference is {reference}"
    if math.isfinite(bias.visible):
        power = (
            f"a bias of {percent(bias.visible)} of the gradient would have been seen, of {percent(bias.visible_along)} "
            f"along it; {power}"
        )
    size = (
        f"{gradient} is off by {percent(bias.relative)} of its length ({percent(bias.along)} along it, "
        f"z = {bias.z:.1f})"
    )
    general = f"{', '.join(biased)} {'is' if len(biased) == 1 else 'are'} biased for most f and most distributions"
    if not bias.seen and not biased:
        found.passed.append(f"no bias of {gradient} was seen (z = {bias.z:.1f}); {power}")
    elif not bias.seen:
        text = f"{general}. Here the bias is too small to be seen (z = {bias.z:.1f}); {power}."
        found.add(Finding("biased in general", "note", text))
    elif biased:
        text = f"{size}, because {general}. {power[0].upper()}{power[1:]}."
        found.add(Finding("biased gradient", "note", text))
    else:
        text = f"{size}, although {unbiased} that it is unbiased. {fix}"
        found.add(Finding("wrong gradient", "error", text))
