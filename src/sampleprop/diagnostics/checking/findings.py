"""What `check` found, as objects with a text and an HTML form."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any, Literal

from sampleprop.diagnostics.measuring.statistics import Bias
from sampleprop.estimator import Estimator

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        name: the kind of finding, in two or three words.
        severity: "error" for a wrong gradient, "warning" for what may be intended, "note" for what is good to know.
        message: what was seen, and what to do.
    """

    name: str
    severity: Severity
    message: str

    def _repr_html_(self) -> str:
        return f"<p><b>{self.severity}</b>, {html.escape(self.name)}: {html.escape(self.message)}</p>"


@dataclass(frozen=True, repr=False)
class Check:
    """What `check` found.

    Attributes:
        estimator: the configuration that was checked.
        findings: what was found, the worst first.
        passed: what was tested and is right.
        unchecked: what could not be tested, and why.
        bias: the bias of the gradient, and the bias that would have been seen; None if it was not measured.
    """

    estimator: str
    findings: tuple[Finding, ...]
    passed: tuple[str, ...]
    unchecked: tuple[str, ...]
    bias: Bias | None

    @property
    def ok(self) -> bool | None:
        """Whether the gradient was compared and nothing is wrong.

        False if something is wrong. None if nothing is wrong, but the gradient could not be compared. Warnings and
        notes do not change it.
        """
        if any(finding.severity == "error" for finding in self.findings):
            return False
        return None if self.bias is None else True

    def __repr__(self) -> str:
        return "\n".join([self._title(), *(f"  {kind}: {text}" for kind, text in self._lines())])

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><th>{kind}</th><td style="text-align: left">{html.escape(text)}</td></tr>'
            for kind, text in self._lines()
        )
        return f"<table><caption>{html.escape(self._title())}</caption><tbody>{rows}</tbody></table>"

    def _title(self) -> str:
        blind = self.ok and self.bias is not None and self.bias.visible_along > 1
        return f"{self.estimator}: {_TITLES[self.ok]}{_BLIND if blind else ''}"

    def _lines(self) -> list[tuple[str, str]]:
        lines: list[tuple[str, str]] = [(finding.severity, finding.message) for finding in self.findings]
        lines += [("right", text) for text in self.passed]
        return lines + [("not checked", text) for text in self.unchecked]


_TITLES = {
    True: "nothing wrong was found",
    False: "something is wrong",
    None: "nothing wrong was found, but the gradient was not compared",
}
_BLIND = ", but the noise would have hidden a gradient twice as long: more replicates or samples see more"


class Findings:
    """What the checks have found so far."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.passed: list[str] = []
        self.unchecked: list[str] = []

    def add(self, finding: Finding | None, passed: str = "") -> None:
        """Add a finding; where there is none, what was tested and is right."""
        if finding is not None:
            self.findings.append(finding)
        elif passed:
            self.passed.append(passed)

    def result(self, estimator: Estimator[Any, Any], bias: Bias | None) -> Check:
        """All of it, the worst first."""
        return self.labelled(estimator.label, bias)

    def labelled(self, label: str, bias: Bias | None) -> Check:
        """All of it, the worst first, of what has this label."""
        order = ("error", "warning", "note")
        findings = sorted(self.findings, key=lambda finding: order.index(finding.severity))
        return Check(label, tuple(findings), tuple(self.passed), tuple(self.unchecked), bias)
