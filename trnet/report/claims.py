"""Published claims, and the verdicts of our measurements on them.

A claim is a range for the change of Top-1 against a baseline. It is supported if the whole 95 %
interval of the change that we measure is in that range, not supported if the whole interval is
worse or better, and undecided otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tabulate

from trnet.report.published import Claim, Comparison
from trnet.report.summary import Measurement
from trnet.report.table import NOT_MEASURED, measured

WORSE, BETTER = "not supported, worse", "not supported, better"
VERDICTS = (WORSE, BETTER, "undecided", "supported", NOT_MEASURED)


@dataclass(frozen=True)
class Finding:
    """The evidence of one experiment for or against a claim.

    Attributes
    ----------
    claim : Claim
    comparison : Comparison
        With ``against`` given.
    space_savings : float
        In percent, against the other head of the comparison.
    change : Measurement or None
        Of Top-1, in points.
    """

    claim: Claim
    comparison: Comparison
    space_savings: float
    change: Measurement | None

    @property
    def verdict(self) -> str:
        """One of :data:`VERDICTS`."""
        return judge(self.change, self.claim.low, self.claim.high)


def judge(change: Measurement | None, low: float, high: float) -> str:
    """The verdict of a measured change of Top-1 on the claim that it is in (``low``, ``high``)."""
    if change is None:
        return NOT_MEASURED
    if change.interval is None:
        return "undecided"
    bottom, top = change.mean - change.interval, change.mean + change.interval
    if low < bottom and top < high:
        return "supported"
    if top <= low:
        return WORSE
    return BETTER if bottom >= high else "undecided"


def details(findings: Sequence[Finding]) -> str:
    """All findings in Markdown; those that are not as published come first."""
    order = sorted(findings, key=lambda finding: VERDICTS.index(finding.verdict))
    return _table(
        {
            "Claim": [f.claim.claim for f in order],
            "Verdict": [f.verdict for f in order],
            "Change of Top-1, points": [measured(f.change, signed=True) for f in order],
            "Claimed": [_range(f.claim) for f in order],
            "Experiment": [f.comparison.experiment for f in order],
            "Against": [f.comparison.against for f in order],
            "Savings": [f"{f.space_savings:.1f}" for f in order],
        }
    )


def overview(findings: Sequence[Finding]) -> str:
    """One line per claim in Markdown: how many of its experiments have which verdict."""
    by_claim: dict[Claim, list[Finding]] = {}
    for finding in findings:
        by_claim.setdefault(finding.claim, []).append(finding)
    return _table(
        {
            "Claim": [claim.claim for claim in by_claim],
            "Published": [claim.published for claim in by_claim],
            "Here, change of Top-1 in points": [_changes(of) for of in by_claim.values()],
            "Verdict": [_verdicts(of) for of in by_claim.values()],
        }
    )


def _changes(findings: Sequence[Finding]) -> str:
    return "; ".join(f"{f.comparison.name} {measured(f.change, signed=True)}" for f in findings)


def _verdicts(findings: Sequence[Finding]) -> str:
    counts = {v: sum(f.verdict == v for f in findings) for v in VERDICTS}
    found = [(v, n) for v, n in counts.items() if n]
    if len(found) == 1:
        return f"**{found[0][0]}**"
    return ", ".join(f"**{v}** {n} of {len(findings)}" for v, n in found)


def _range(claim: Claim) -> str:
    if claim.high == math.inf:
        return f"above {claim.low:+g}" if claim.low else "above 0"
    if claim.low == -math.inf:
        return f"below {claim.high:+g}" if claim.high else "below 0"
    return f"{claim.low:+g} to {claim.high:+g}"


def _table(columns: Mapping[str, Sequence[str]]) -> str:
    return tabulate.tabulate(columns, headers="keys", tablefmt="pipe", disable_numparse=True)
