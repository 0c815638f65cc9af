"""Subclasses of each law that override one method, by which their samples and log-probabilities may contradict."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Generator
from torch.distributions import Distribution

import sampleprop as sp
from laws.sweep import ESTIMATORS, Verdict, rounded
from laws.table import Law

METHODS = ("sample", "rsample", "log_prob", "probs", "logits")


def has(kind: type[Distribution], method: str) -> bool:
    """Whether the class has this method at all, and says something by it."""
    if method in ("probs", "logits"):
        return hasattr(kind, method)
    return method != "rsample" or kind.rsample is not Distribution.rsample


def overriding(kind: type[Distribution], *methods: str) -> type[Distribution]:
    """A subclass of which each of these methods gives another number."""

    def changed(method: str) -> Any:
        if method in ("probs", "logits"):
            return _scaled(inspect.getattr_static(kind, method), f"_own_{method}")
        given = getattr(kind, method)
        return lambda self, *arguments, **named: 0.7 * given(self, *arguments, **named)

    return type(f"Odd{kind.__name__}", (kind,), {method: changed(method) for method in methods})


def _scaled(base: Any, kept: str) -> property:
    """A property that mixes what the constructor sets, or else the base class computes, with its mirror image."""

    def get(self: Any) -> Any:
        given = vars(self).get(kept)
        if given is None:
            given = base.__get__(self) if isinstance(base, property) else base.wrapped(self)
        return 0.7 * given + 0.3 * given.flip(-1)

    return property(get, lambda self, value: vars(self).__setitem__(kept, value))


def harmless(kind: type[Distribution]) -> type[Distribution]:
    """A subclass that defines `sample` and `log_prob`, and nothing else changes."""

    def sample(self: Any, sample_shape: Any = ()) -> Any:
        return kind.sample(self, torch.Size(sample_shape))

    def log_prob(self: Any, value: Any) -> Any:
        return kind.log_prob(self, value)

    return type(f"Own{kind.__name__}", (kind,), {"sample": sample, "log_prob": log_prob})


def refused(law: Law, regime: int, method: str, name: str) -> Verdict:
    """The verdict of an estimator on a subclass that overrides one method: it must be an error that names it."""
    p = torch.tensor(rounded(law, regime), dtype=torch.float32).expand(4, -1).clone().requires_grad_()
    dist = law.build(overriding(law.kind, method), *p.unbind(-1))
    try:
        sp.expect(lambda x: law.statistic(x).double(), dist, ESTIMATORS[name], generator=Generator().manual_seed(0))
    except TypeError as error:
        if f"overrides {method} and inherits" in str(error):
            return Verdict("refused", str(error))
        raise
    raise AssertionError(f"silent: {name} takes {law.name} that overrides {method} in the regime {regime}")
