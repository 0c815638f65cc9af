"""The result of `certify`: numbers, a verdict, and the same as a table with plain sentences."""

from __future__ import annotations

import textwrap
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sampleprop.certificates.trial import Certificate, Undecided
from sampleprop.diagnostics.measuring.statistics import aligned

WIDTH = 120
COLUMNS = ("problem", "estimates", "bias", "± error", "seen from", "|z|: φ", "along", "value", "θ", "found")

Verdict = Literal["right", "wrong", "biased", "no bias"]


@dataclass(frozen=True, repr=False)
class Certification:
    """The result of `certify`.

    Attributes:
        estimator: the configuration that was certified.
        unbiased: whether it claims an unbiased gradient.
        exact_forward: whether it claims that f sees only true samples, so that the value and the gradient with respect
            to θ are unbiased.
        certificates: one for each problem that was decided.
        undecided: the problems that were not decided, with the reason.
        threshold: a comparison is rejected when the absolute value of its z is larger.
        detectable: the relative bias that was to be seen with a probability of 99 %.
        false_alarm: the probability that a right estimator is rejected.
        comparisons: the number of comparisons in all problems.
        seed: of all noise.
    """

    estimator: str
    unbiased: bool
    exact_forward: bool
    certificates: tuple[Certificate, ...]
    undecided: tuple[Undecided, ...]
    threshold: float
    detectable: float
    false_alarm: float
    comparisons: int
    seed: int

    @property
    def ok(self) -> bool | None:
        """Whether the estimator is what it claims to be.

        False if a comparison rejects a claim. True for an estimator that claims to be unbiased, if every problem was
        decided and none rejected it. None in all other cases: if a problem was not decided, or if the estimator does
        not claim an unbiased gradient.
        """
        if any(self.verdict(certificate) == "wrong" for certificate in self.certificates):
            return False
        return True if self.unbiased and not self.undecided else None

    @property
    def sees(self) -> float:
        """The relative bias along the exact gradient that every decided problem would show, with 99 % probability."""
        return max((certificate.sees for certificate in self.certificates), default=float("inf"))

    def verdict(self, certificate: Certificate) -> Verdict:
        """The result for one problem.

        "wrong" if a claim is rejected. Otherwise "right" for an estimator that claims an unbiased gradient; for
        another one, "biased" or "no bias", which says whether a bias was seen.
        """
        if self._rejected(certificate):
            return "wrong"
        if self.unbiased:
            return "right"
        return "biased" if max(certificate.z["φ"], certificate.z["along"]) > self.threshold else "no bias"

    def as_dict(self) -> dict[str, Any]:
        """All numbers and verdicts, as JSON can hold them."""
        found = asdict(self) | {"ok": self.ok}
        found["certificates"] = [asdict(each) | {"verdict": self.verdict(each)} for each in self.certificates]
        found["undecided"] = [asdict(each) for each in self.undecided]
        return found

    def notes(self) -> list[str]:
        """What one must know to read the table, in sentences."""
        wrong = [self._complaint(each) for each in self.certificates if self.verdict(each) == "wrong"]
        notes = wrong + [f"Not decided, {each.problem}: {each.reason}" for each in self.undecided]
        if not self.certificates:
            return notes
        notes.append(
            "Tested on each problem: the value, every coordinate of the gradients with respect to φ and θ, and the "
            "projection (“along”) of the gradient with respect to φ on the exact one, "
            f"{self.comparisons} comparisons in all. One is rejected when |z| is above {self.threshold:.2f}, so that a "
            f"correct estimator is rejected with a probability of at most {100 * self.false_alarm:g} %."
        )
        if not self.unbiased:
            judged = (
                "The value and the gradient with respect to θ are judged" if self.exact_forward else "Nothing is judged"
            )
            notes.append(
                f"{self.estimator} does not claim an unbiased gradient with respect to φ, whose bias is therefore only "
                f"measured. {judged}."
            )
        notes.append(
            "The column “bias” is along the exact gradient, relative to its length. With a probability of 99 %, a bias "
            f"of {_percent(self.sees)} or more would have been seen on every problem that was decided; “seen from” "
            "says it for each."
        )
        return notes

    def __repr__(self) -> str:
        lines = [COLUMNS, *(self._cells(each) for each in self.certificates)]
        lines += [(each.problem, *["–"] * (len(COLUMNS) - 2), "not decided") for each in self.undecided]
        table = aligned(lines, left=(0, len(COLUMNS) - 1))
        notes = [textwrap.fill(note, WIDTH, subsequent_indent="  ") for note in self.notes()]
        return "\n".join([self._title(), "", *table, "", *notes])

    def _title(self) -> str:
        count = len(self.certificates) + len(self.undecided)
        wrong = sum(self.verdict(each) == "wrong" for each in self.certificates)
        if wrong:
            return f"{self.estimator}: wrong on {wrong} of {_counted(count)}"
        if not self.certificates:
            return f"{self.estimator}: nothing was decided, of {_counted(count)}"
        left = f"; {len(self.undecided)} of {_counted(count)} not decided" if self.undecided else ""
        if self.unbiased:
            return f"{self.estimator}: nothing wrong was found on {_counted(len(self.certificates))}{left}"
        biased = sum(self.verdict(each) == "biased" for each in self.certificates)
        return f"{self.estimator}: biased, as it says, on {biased} of {_counted(len(self.certificates))}{left}"

    def _cells(self, certificate: Certificate) -> tuple[str, ...]:
        return (
            certificate.problem,
            f"{certificate.replicates:,}",
            f"{100 * certificate.bias:+.2f} %",
            _percent(certificate.bias_error),
            _percent(certificate.sees),
            *(_short(certificate.z[part]) for part in ("φ", "along", "value", "θ")),
            self.verdict(certificate),
        )

    def _rejected(self, certificate: Certificate) -> list[str]:
        """The parts, of those that the estimator claims to be unbiased, whose comparison says that they are not."""
        claimed = ("φ", "along", "value", "θ") if self.unbiased else ("value", "θ") if self.exact_forward else ()
        return [part for part in claimed if certificate.z[part] > self.threshold]

    def _complaint(self, certificate: Certificate) -> str:
        rejected = self._rejected(certificate)
        wrong = []
        if "along" in rejected:
            too = "long" if certificate.bias > 0 else "short"
            wrong.append(f"the gradient with respect to φ is {_percent(abs(certificate.bias))} too {too}")
        elif "φ" in rejected:
            wrong.append("the gradient with respect to φ has a wrong direction")
        wrong += [_PARTS[part] for part in rejected if part in _PARTS]
        return f"Wrong, {certificate.problem}: {'; '.join(wrong)}."


_PARTS = {"value": "the value is wrong", "θ": "the gradient with respect to θ is wrong"}


def _counted(problems: int) -> str:
    return "1 problem" if problems == 1 else f"{problems} problems"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _short(z: float) -> str:
    """One decimal, and no more than six characters."""
    return f"{z:.1f}" if z < 9999 else f"{z:.0e}"
