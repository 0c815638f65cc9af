"""The configurations that are certified."""

from __future__ import annotations

from typing import Any

import torch

import sampleprop as sp


def _variants() -> tuple[sp.Estimator[Any], ...]:
    """Every configuration of the register that is certified, the same ones in each process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return tuple(variant.eval() for estimator in sp.REGISTER for variant in estimator.variants())


VARIANTS = _variants()
