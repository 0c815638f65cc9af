"""What `check` finds of typical mistakes, and that it leaves right problems alone."""

import pytest
import torch

from diagnostics import mistakes
from diagnostics.right import problem
from sampleprop.diagnostics import check

RIGHT, PART = 300, 30


@pytest.mark.parametrize("name", mistakes.FOUND)
def test_a_typical_mistake_is_found(name: str) -> None:
    torch.manual_seed(0)
    result = check(*mistakes.FOUND[name]())
    assert {finding.severity for finding in result.findings} & {"error", "warning"}, result


NAMED = {
    "no_grad around the encoder": "an encoder that ran under `torch.no_grad()`",
    "no_grad around the decoder, black box": "a decoder whose own parameters get no gradient",
    "KL with a detached law": "a KL term outside f",
    "rewards for costs": "a cost with the wrong sign",
}


@pytest.mark.parametrize("name", mistakes.INVISIBLE)
def test_what_it_cannot_see_is_named_in_its_documentation(name: str) -> None:
    assert check(*mistakes.INVISIBLE[name]()).ok is True
    assert NAMED[name] in " ".join(check.__doc__.split())


@pytest.mark.slow
@pytest.mark.parametrize("part", range(RIGHT // PART))
def test_no_false_alarm_on_right_problems(part: int) -> None:
    """Two tests with a false-alarm rate of 3e-5 each for a gradient, one for a value: 3 % for all 300 problems."""
    for seed in range(part * PART, (part + 1) * PART):
        case = problem(seed)
        torch.manual_seed(seed)
        result = check(*case, replicates=256, seed=seed)
        assert result.ok is True, f"seed {seed}\n{result!r}"
        assert not {finding.severity for finding in result.findings} - {"note"}, f"seed {seed}\n{result!r}"
