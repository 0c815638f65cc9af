"""What is peculiar to DisARM."""

from __future__ import annotations

import pytest

import sampleprop as sp


def test_odd_numbers_of_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="DisARM needs an even number of samples, at least 2; got samples=3"):
        sp.DisARM(3)
