"""What the tests certify: each variant of the register on every exact problem that it takes, by one threshold."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import sampleprop as sp
from sampleprop.certificates import PROBLEMS, Certificate, Problem
from sampleprop.certificates.trial import comparisons, measure, threshold
from variants import VARIANTS

FALSE_ALARM = 1e-3  # of the whole suite: half of it for the certificates, half for the other random tests
DETECTABLE = 0.02

PAIRS = tuple((variant, problem) for variant in VARIANTS for problem in PROBLEMS if problem.supports(variant))

# Every pair once, and room for as many comparisons again in the tests that certify a changed estimator.
THRESHOLD = threshold(2 * sum(comparisons(problem) for _, problem in PAIRS), FALSE_ALARM / 2)


def certified(estimator: sp.Estimator[Any, Any], problem: Problem, *, detectable: float = DETECTABLE) -> Certificate:
    """The certificate of one pair, with the same noise at each call.

    Raises:
        AssertionError: if the problem does not decide.
    """
    seed = crc32(f"{estimator.label} {problem}".encode())
    found = measure(estimator, problem, threshold=THRESHOLD, detectable=detectable, seed=seed)
    assert isinstance(found, Certificate), found
    return found
