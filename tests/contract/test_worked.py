"""The example in each estimator's docstring, worked out by hand there: run in float64 and compared to all its digits.

The same lines are run as a doctest in float32, where they are compared as printed.
"""

from __future__ import annotations

import doctest
import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import sampleprop as sp


@pytest.fixture
def _float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def _numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"(?<![\w.])-?\d+\.?\d*(?:e-?\d+)?", text)]


@pytest.mark.usefixtures("_float64")
@pytest.mark.parametrize("estimator", sp.REGISTER, ids=lambda estimator: estimator.__name__)
def test_worked_example(estimator: type[sp.Estimator[Any, Any]]) -> None:
    """`combine` is called on given numbers; the printed value and gradient are exact decimals, and not zero."""
    examples = doctest.DocTestParser().get_examples(inspect.getdoc(estimator) or "")
    assert any(".combine(" in example.source for example in examples)
    names = dict(vars(inspect.getmodule(estimator)))  # as a doctest has them
    torch.set_printoptions(precision=12)
    try:
        printed = []
        for example in examples:
            if not example.want:
                exec(example.source, names)
                continue
            found = _numbers(repr(eval(example.source, names)))
            wanted = _numbers(example.want)
            assert len(found) == len(wanted), example.source
            # Only float32 coefficients of control variates, where there are any, are not exact.
            assert found == pytest.approx(wanted, rel=1e-7, abs=1e-10), example.source
            printed.append(wanted)
    finally:
        torch.set_printoptions(profile="default")
    assert any(len(numbers) >= 2 for numbers in printed), "the example prints the value and the gradient"
    assert all(any(numbers) for numbers in printed), "nothing is zero by symmetry: a lost factor or sign would show"
