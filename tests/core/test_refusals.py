"""What `expect` and the helpers of the families refuse, by the wording."""

from __future__ import annotations

import pytest
import torch.distributions as td
from torch import Tensor

import sampleprop as sp
from kinds import BITS
from sampleprop import families

BATCH = 5


def test_expect_refuses_what_is_no_estimator() -> None:
    with pytest.raises(TypeError, match=r"expect needs an estimator object; got .*Pass sp\.ScoreFunction\(\), say"):
        sp.expect(lambda x: x, td.Normal(0.0, 1.0), sp.ScoreFunction)  # type: ignore[arg-type]


def test_expect_refuses_an_unknown_policy() -> None:
    with pytest.raises(ValueError, match='expect needs nonfinite="raise", "drop" or "propagate"; got \'ignore\''):
        sp.expect(lambda x: x, td.Normal(0.0, 1.0), sp.ScoreFunction(), nonfinite="ignore")  # type: ignore[arg-type]


def test_an_error_in_f_says_where_it_came_from() -> None:
    def f(x: Tensor) -> Tensor:
        raise KeyError("lost")

    with pytest.raises(KeyError, match=r"This came from f, called by ScoreFunction with points of shape \[2, 5, 3\]"):
        sp.expect(f, BITS.dist(BITS.phi(BATCH)), sp.ScoreFunction())


def test_the_parameters_of_a_transformed_distribution_are_refused() -> None:
    transformed = td.TransformedDistribution(td.Normal(0.0, 1.0), [td.SigmoidTransform()])
    with pytest.raises(
        TypeError,
        match="The gradient with respect to the parameters of TransformedDistribution needs a distribution that",
    ):
        _ = families.recognize(transformed).parameters
