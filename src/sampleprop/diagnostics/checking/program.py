"""`check` of a program: is its gradient right, and is everything that it samples a site?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from sampleprop.diagnostics.checking.findings import Check, Finding, Findings
from sampleprop.diagnostics.checking.verdicts import judge_bias, judge_value
from sampleprop.diagnostics.measuring.programs import Runs, Sampling
from sampleprop.diagnostics.measuring.reference import judge
from sampleprop.diagnostics.measuring.replicates import describe_error
from sampleprop.diagnostics.measuring.statistics import Bias
from sampleprop.diagnostics.measuring.tally import devices
from sampleprop.programs.program import program
from sampleprop.programs.streams import saved


def check_program(model: program[...], args: Sequence[Any], replicates: int, seed: int) -> Check:
    """What `check` does with a program."""
    found, bias = Findings(), None
    with torch.random.fork_rng(devices=devices()):
        torch.manual_seed(seed)
        try:
            runs = Runs(model, args)
            _check_sites(found, runs)
            bias = _check_gradient(found, runs, replicates, seed)
        except Exception as error:
            found.add(Finding("fails", "error", f"{type(error).__name__}: {describe_error(error)}"))
    return found.labelled(f"program {getattr(model, '__name__', 'without a name')}", bias)


def _check_sites(found: Findings, runs: Runs) -> None:
    """Samples that are no sites, noise besides them, and rows that mix."""
    dead = sorted(set(runs.sampled(guarded=True).dead))
    found.add(
        Finding(
            "dead sample",
            "error",
            f"torch.{', torch.'.join(dead)} was called with parameters that require a gradient, outside of any site: "
            "the gradient of such a sample is dead. Use sp.sample(dist).",
        )
        if dead
        else None,
        "every sample of parameters with a gradient is a site",
    )
    first = runs.first
    values = [site.value for site in first.sites]
    start = saved()
    one = runs.sampled(values).total.detach()
    moved = not saved().same(start)
    found.add(
        Finding(
            "other noise",
            "note",
            "the program draws from torch's generator besides its sites, by dropout, say: this noise has no gradient.",
        )
        if moved
        else None,
        "no noise of torch besides the sites",
    )
    start.put_back()
    again = runs.sampled(values).total.detach()
    alike = one.shape == again.shape and torch.allclose(one, again, rtol=1e-4, atol=1e-6)
    found.add(
        None
        if alike
        else Finding(
            "random cost",
            "warning",
            "the same samples give other costs, with torch's generator put back: the program has noise of another "
            "library, or a state. Its gradient is not seen, unless it is a constant to the parameters.",
        ),
        "the same samples give the same costs",
    )
    if alike:
        _check_rows(found, runs, values, one, start)


def _check_rows(found: Findings, runs: Runs, values: list[Tensor], cost: Tensor, start: Any) -> None:
    """Move the samples of the first row; the costs of the others must stay."""
    other = next((run for run in runs.examples[1:] if _alike(run, values)), None)
    if (
        not values
        or other is None
        or cost.dim() == 0
        or len(cost) < 2
        or any(v.shape[:1] != cost.shape[:1] for v in values)
    ):
        found.unchecked.append(
            "whether the rows of a batch mix: there is no batch of two rows or more, or paths differ"
        )
        return
    changed = [torch.cat((site.value[:1], value[1:])) for site, value in zip(other.sites, values, strict=True)]
    if all(torch.equal(a, b) for a, b in zip(changed, values, strict=True)):
        found.unchecked.append("whether the rows of a batch mix: two runs drew the same in the first row")
        return
    start.put_back()
    after = runs.sampled(changed).total.detach()
    mixed = (after - cost)[1:].abs() > 1e-5 * (1 + cost.abs().max())
    found.add(
        Finding(
            "rows mix",
            "error",
            f"another sample in row 0 changes the cost of row {int(mixed.nonzero()[0, 0]) + 1}: batch normalization in "
            "training mode does that. Use eval() or another normalization, since each row is an expectation of its "
            "own.",
        )
        if bool(mixed.any())
        else None,
        "the cost of a row depends on its own samples only",
    )


def _alike(run: Sampling, values: list[Tensor]) -> bool:
    return [site.value.shape for site in run.sites] == [value.shape for value in values]


def _check_gradient(found: Findings, runs: Runs, replicates: int, seed: int) -> Bias | None:
    reference = runs.reference(replicates, Generator().manual_seed(seed + 3))
    measured = runs.measured(runs.model, replicates, Generator().manual_seed(seed + 2))
    estimators = [site.estimator for site in runs.first.sites]
    judge_value(found, measured, reference, runs.rounding, all(e.exact_forward for e in estimators))
    bias = judge(measured, reference, runs.rounding)
    if bias is None:
        found.unchecked.append(f"the gradient; the reference is {reference.describe()}")
        return None
    biased = sorted({estimator.name for estimator in estimators if not estimator.unbiased})
    fix = (
        "Look for a jump of the cost in a variable that is differentiated through (`if z > 0`), a value that leaves "
        f"torch, and rows that mix. The reference is {reference.describe()}."
    )
    gradient = "the gradient of all parameters"
    judge_bias(found, bias, biased, "each of its estimators states", reference.describe(), gradient, fix)
    return bias
