"""`compare` of estimators at a site of a program: the gradient of everything that the program depends on."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Generator

from sampleprop.diagnostics.comparing.comparison import Comparison
from sampleprop.diagnostics.comparing.row import Row, Skipped, ranked, row
from sampleprop.diagnostics.measuring.programs import Reference, Runs
from sampleprop.diagnostics.measuring.reference import judge
from sampleprop.diagnostics.measuring.replicates import TRAINING_RATE, describe_error
from sampleprop.diagnostics.measuring.tally import devices
from sampleprop.estimator import Estimator
from sampleprop.programs.coupled_replay import CoupledReplay
from sampleprop.programs.program import program

Entry = Estimator[Any, Any] | CoupledReplay


def compare_program(
    model: program[...],
    args: Sequence[Any],
    estimators: Iterable[Entry],
    site: str | None,
    replicates: int,
    seed: int,
    train_steps: int,
) -> Comparison:
    """What `compare` does with a program."""
    given = [estimators] if isinstance(estimators, Estimator | CoupledReplay) else list(estimators)
    for entry in given:
        if not isinstance(entry, Estimator | CoupledReplay):
            raise TypeError(f"compare needs estimators, or CoupledReplay; got {entry!r:.80}.")
    rows, skipped = [], []
    with torch.random.fork_rng(devices=devices()):
        torch.manual_seed(seed)
        runs = Runs(model, args)
        names = sorted({s.name for run in runs.examples for s in run.sites if s.name is not None})
        if site is not None and site not in names:
            raise ValueError(
                f"compare needs the name of a site of the program; got {site!r}, and the names are {names}. Give it by "
                "sp.sample(..., name=...)."
            )
        reference = runs.reference(replicates, Generator().manual_seed(seed))
        for number, entry in enumerate(given, start=1):
            generator = Generator().manual_seed(seed + number)
            try:
                rows.append(measure_entry(runs, entry, reference, replicates, generator, train_steps, site))
            except Exception as error:
                skipped.append(Skipped(_label(entry), describe_error(error)))
    return Comparison(
        rows=ranked(rows),
        skipped=tuple(skipped),
        budget=max((found.evaluations for found in rows), default=0),
        seed=seed,
        reference=reference.describe(),
        parameters=("all parameters",),
        gradient=reference.length(),
        problem=f"{getattr(model, '__name__', 'program')}, {'all sites' if site is None else f'site {site}'}",
    )


def measure_entry(
    runs: Runs,
    entry: Entry,
    reference: Reference,
    replicates: int,
    generator: Generator,
    train_steps: int,
    site: str | None = None,
) -> Row:
    """The numbers of a copy of one entry, trained first, at one site or at every site."""
    estimator = copy.deepcopy(entry)
    changed = runs.model.using(
        {site: estimator} if site is not None and isinstance(estimator, Estimator) else estimator
    )
    trained = _trained(runs, changed, estimator, train_steps, generator)
    if isinstance(estimator, Estimator):
        estimator.eval()
    measured = runs.measured(changed, replicates, generator, _label(entry))
    name, unbiased, measured.evaluations = _facts(runs, estimator, site)
    measured.trained = trained
    return row(measured, name, unbiased, judge(measured, reference, runs.rounding), reference.length())


def _label(entry: Entry) -> str:
    return entry.label if isinstance(entry, Estimator) else repr(entry)


def _trained(runs: Runs, model: program[...], entry: Entry, steps: int, generator: Generator) -> int:
    """Train the estimator's own parameters on this program; return the number of steps."""
    own = [p for p in entry.parameters() if p.requires_grad] if isinstance(entry, Estimator) else []
    if not own or not steps:
        return 0
    model = model.using(generator=generator)
    optimizer = torch.optim.Adam(own, lr=TRAINING_RATE)
    for _ in range(steps):
        gradients = torch.autograd.grad(model(*runs.args).mean(), own, allow_unused=True)
        for parameter, gradient in zip(own, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
    for parameter in own:
        parameter.grad = None
    return steps


def _facts(runs: Runs, entry: Entry, site: str | None) -> tuple[str, bool, int]:
    """The name, whether all is unbiased that says so of itself, and the evaluations of one estimate."""
    if not isinstance(entry, Estimator):
        return "CoupledReplay", True, 1 + entry.alternatives
    here = [s.variables for s in runs.first.sites if site in (None, s.name)]
    others = [s.estimator for s in runs.first.sites if site is not None and s.name != site]
    unbiased = entry.unbiased and all(other.unbiased for other in others)
    return entry.name, unbiased, max((entry.calls(variables)[0] for variables in here), default=1)
