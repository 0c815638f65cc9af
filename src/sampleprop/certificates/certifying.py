"""`certify`: is this estimator what it claims to be, on problems whose exact gradient is known?"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from zlib import crc32

import torch

from sampleprop import families
from sampleprop.certificates.certification import Certification
from sampleprop.certificates.problems import PROBLEMS, Problem
from sampleprop.certificates.trial import (
    LEAST_REPLICATES,
    MOST_REPLICATES,
    Certificate,
    Undecided,
    comparisons,
    measure,
    threshold,
)
from sampleprop.diagnostics.comparing.compare import Progress
from sampleprop.diagnostics.measuring.tally import require_estimator
from sampleprop.estimator import Estimator


def certify(
    estimator: Estimator[Any, Any],
    problems: Iterable[str | Problem] | None = None,
    *,
    detectable: float = 0.02,
    false_alarm: float = 1e-3,
    most_replicates: int = MOST_REPLICATES,
    seed: int = 0,
    progress: Progress | None = None,
) -> Certification:
    r"""Test an estimator against the exact value and gradients of small problems, with a stated power.

    Each problem is an expectation :math:`\mathbb{E}_{x \sim p_\phi}[f_\theta(x)]` whose value and gradients are known
    exactly. The means of n independent estimates are compared with them by z-tests: the value, each coordinate of the
    gradient with respect to θ, each coordinate of the gradient with respect to φ, and its projection on the exact
    gradient g,

    .. math::

        z = \frac{\sqrt n}{s} \Big(\frac1n \sum_{i=1}^n \frac{\hat g_i \cdot g}{|g|} - |g|\Big), \qquad
        n = \Big(\frac{(t + 2.33)\, s}{b\, |g|}\Big)^2,

    where s is the standard deviation of one projection and b is `detectable`. The threshold t for \|z\| splits
    `false_alarm` over all comparisons of this call. With this n, a bias of b or more along g is rejected with a
    probability of 99 %.

    Nothing but the estimator's class is needed: `refusal` says which problems it accepts, and its facts say what it
    claims. If it claims to be `unbiased`, it is right or wrong. If it does not, its bias is measured. With
    `exact_forward`, its value and its gradient with respect to θ are right or wrong.

    It is tested as a copy, in evaluation mode, on the CPU, in float64 and in one thread; the global random state and
    the number of threads do not change. With the default arguments this takes some seconds, and up to a minute for a
    large variance: the time is proportional to one over the square of `detectable`. After Ctrl-C, the finished results
    are returned.

    Args:
        estimator: one of the library, or your own. Its estimates for different batch elements must be independent.
        problems: names, as the result lists them, or :class:`~sampleprop.certificates.Problem` objects; None for every
            built-in problem that the estimator accepts.
        detectable: the relative bias along the exact gradient that must be seen, between 0 and 1.
        false_alarm: the probability that a right estimator is rejected, between 0 and 1.
        most_replicates: the largest number of estimates, at least 30,000. A problem that needs more is not decided.
        seed: of all noise.
        progress: a function that is called with the name of the problem, the number of finished problems, and the
            number of all problems.

    Raises:
        TypeError: for an object that is not an estimator.
        ValueError: for an unknown problem, for one that the estimator does not take, for an estimator that takes none
            of the built-in problems, and for estimates that have the wrong shape or are not finite.

    Example:
        >>> import sampleprop as sp
        >>> result = sp.certify(sp.ScoreFunction(4), ["one bit", "five classes"])
        >>> result.ok, result.sees <= 0.02
        (True, True)
        >>> biased = sp.certify(sp.StraightThrough(), ["six coupled bits"], detectable=0.1)
        >>> biased.ok is None, biased.verdict(biased.certificates[0])
        (True, 'biased')
    """
    require_estimator("certify", estimator)
    _check_numbers(detectable, false_alarm, most_replicates)
    estimator = copy.deepcopy(estimator).cpu().eval()
    certificates: list[Certificate] = []
    undecided: list[Undecided] = []
    with _alone(seed):
        chosen = _supported(estimator) if problems is None else _chosen(estimator, problems)
        tests = sum(comparisons(problem) for problem in chosen)
        limit = threshold(tests, false_alarm)
        try:
            for done, problem in enumerate(chosen):
                if progress is not None:
                    progress(problem.name, done, len(chosen))
                found = _measured(estimator, problem, limit, detectable, seed, most_replicates)
                if isinstance(found, Certificate):
                    certificates.append(found)
                else:
                    undecided.append(found)
        except KeyboardInterrupt:
            left = chosen[len(certificates) + len(undecided) :]
            undecided += [Undecided(problem.name, "Interrupted before it was done.") for problem in left]
    return Certification(
        estimator=estimator.label,
        unbiased=estimator.unbiased,
        exact_forward=estimator.exact_forward,
        certificates=tuple(certificates),
        undecided=tuple(undecided),
        threshold=limit,
        detectable=detectable,
        false_alarm=false_alarm,
        comparisons=tests,
        seed=seed,
    )


@contextmanager
def _alone(seed: int) -> Iterator[None]:
    """One thread, since the tensors are small; the CPU; gradients on; and a global random state of our own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.device("cpu"), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def _check_numbers(detectable: float, false_alarm: float, most_replicates: int) -> None:
    for name, value in (("detectable", detectable), ("false_alarm", false_alarm)):
        if not 0 < value < 1:
            raise ValueError(f"certify needs {name} between 0 and 1; got {value}.")
    if most_replicates < LEAST_REPLICATES:
        raise ValueError(f"certify needs most_replicates of at least {LEAST_REPLICATES}; got {most_replicates}.")


def _supported(estimator: Estimator[Any, Any]) -> list[Problem]:
    """The built-in problems that the estimator takes."""
    chosen = [problem for problem in PROBLEMS if problem.supports(estimator)]
    if not chosen:
        kinds = {problem: type(families.unwrap(problem.dist(problem.phi))[0]).__name__ for problem in PROBLEMS}
        first = PROBLEMS[0]
        raise ValueError(
            f"certify needs an estimator that takes one of the built-in problems; {estimator.label} takes none of "
            f"them. Their distributions are {', '.join(dict.fromkeys(kinds.values()))}. It said of {kinds[first]}: "
            f"{first.refusal(estimator)!r}. Let its `refusal` return None where it takes one, or pass a "
            "sampleprop.certificates.Problem of your own."
        )
    return chosen


def _chosen(estimator: Estimator[Any, Any], problems: Iterable[str | Problem]) -> list[Problem]:
    """The problems that the caller asks for."""
    if isinstance(problems, str | Problem):
        problems = (problems,)
    chosen = [_named(problem) if isinstance(problem, str) else problem for problem in problems]
    if not chosen:
        raise ValueError("certify needs at least one problem; got none. Pass problems=None for all that there are.")
    for problem in chosen:
        refusal = problem.refusal(estimator)
        if refusal is not None:
            raise ValueError(f"certify needs problems that {estimator.label} takes; got “{problem}”. {refusal}")
    return chosen


def _named(name: str) -> Problem:
    known = {problem.name: problem for problem in PROBLEMS}
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3) or list(known)
        listed = ", ".join(f"“{each}”" for each in close)
        raise ValueError(f"certify needs the name of a built-in problem; got {name!r}. There is {listed}.")
    return known[name]


def _measured(
    estimator: Estimator[Any, Any], problem: Problem, limit: float, detectable: float, seed: int, most_replicates: int
) -> Certificate | Undecided:
    try:
        return measure(
            estimator,
            problem,
            threshold=limit,
            detectable=detectable,
            seed=crc32(f"{seed} {problem}".encode()),
            most_replicates=most_replicates,
        )
    except Exception as error:
        error.add_note(f"This was while {estimator.label} was certified on the problem “{problem}”.")
        raise
