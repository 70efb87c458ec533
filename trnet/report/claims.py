"""Published claims, and the verdicts of our measurements on them.

A claim is a range for the change of Top-1 against a baseline: 'no loss' is a change above a margin
that was stated before the runs. A claim is supported if the whole interval of the change that we
measure is in that range, not supported if the whole interval is worse or better, and undecided
otherwise. A single seed gets no verdict. Intervals are as wide as Holm's correction (Scandinavian
Journal of Statistics 6, 1979) asks for, so that the probability of any wrong verdict among all is
at most 5 %. All comparisons that are stated are counted, measured or not: so a verdict stays,
whatever is measured after it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import tabulate
from scipy.special import stdtr

from trnet.report.published import Claim, Comparison
from trnet.report.summary import Measurement
from trnet.report.table import NOT_MEASURED, measured

WORSE, BETTER = "not supported, worse", "not supported, better"
ONE_SEED = "one seed only"
VERDICTS = (WORSE, BETTER, "undecided", "supported", ONE_SEED, NOT_MEASURED)
LEVEL = 0.05  # the probability of any wrong verdict, of all that are judged together
_ROUNDING = 1e-9  # points: differences of equal Top-1 are not all exactly zero


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
    p_value : float
        Corrected for the number of findings that are judged together. 1 − p is the confidence of
        the widest interval of the change that no bound of the claim cuts.
    """

    claim: Claim
    comparison: Comparison
    space_savings: float
    change: Measurement | None
    p_value: float = 1.0

    @property
    def verdict(self) -> str:
        """One of :data:`VERDICTS`."""
        if self.change is None:
            return NOT_MEASURED
        if self.change.deviation is None:
            return ONE_SEED
        if self.p_value >= LEVEL:
            return "undecided"
        if self.change.mean <= self.claim.low:
            return WORSE
        return "supported" if self.change.mean < self.claim.high else BETTER


def judge(findings: Sequence[Finding]) -> list[Finding]:
    """Give findings that are judged together their p-values, with Holm's correction."""
    alone = [p_value(f.change, f.claim) for f in findings]
    corrected: dict[int, float] = {}
    largest = 0.0
    for done, i in enumerate(sorted(range(len(alone)), key=alone.__getitem__)):
        corrected[i] = largest = max(largest, min(1.0, (len(alone) - done) * alone[i]))
    return [replace(f, p_value=corrected[i]) for i, f in enumerate(findings)]


def p_value(change: Measurement | None, claim: Claim) -> float:
    """The probability of a change so far from the nearest bound of a claim, if it is on that bound.

    By Student's t, on both sides. 1 without a measurement, for a single seed, and for seeds that
    all say the same: then Top-1, of a few images, is too coarse to show how much they differ.
    """
    if change is None or change.deviation is None or change.deviation < _ROUNDING:
        return 1.0
    distance = min(abs(change.mean - bound) for bound in (claim.low, claim.high))
    t = distance / change.deviation * math.sqrt(change.seeds)
    return 2 * float(stdtr(change.seeds - 1, -t))


def details(findings: Sequence[Finding]) -> str:
    """All findings in Markdown; those that are not as published come first."""
    order = sorted(findings, key=lambda finding: VERDICTS.index(finding.verdict))
    return _table(
        {
            "Claim": [f.claim.claim for f in order],
            "Verdict": [f.verdict for f in order],
            "Change of Top-1, points": [measured(f.change, signed=True) for f in order],
            "p": [_chance(f) for f in order],
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
    names = [finding.comparison.name for finding in findings]
    if len(set(names)) < len(names):
        names = [finding.comparison.experiment for finding in findings]
    changes = [measured(finding.change, signed=True) for finding in findings]
    return "; ".join(map(" ".join, zip(names, changes)))


def _verdicts(findings: Sequence[Finding]) -> str:
    counts = {v: sum(f.verdict == v for f in findings) for v in VERDICTS}
    found = [(v, n) for v, n in counts.items() if n]
    if len(found) == 1:
        return f"**{found[0][0]}**"
    return ", ".join(f"**{v}** {n} of {len(findings)}" for v, n in found)


def _chance(finding: Finding) -> str:
    if finding.verdict in (ONE_SEED, NOT_MEASURED):
        return ""
    return "< 0.001" if finding.p_value < 0.0005 else f"{finding.p_value:.3f}"


def _range(claim: Claim) -> str:
    if claim.high == math.inf:
        return f"above {claim.low:+g}" if claim.low else "above 0"
    if claim.low == -math.inf:
        return f"below {claim.high:+g}" if claim.high else "below 0"
    return f"{claim.low:+g} to {claim.high:+g}"


def _table(columns: Mapping[str, Sequence[str]]) -> str:
    return tabulate.tabulate(columns, headers="keys", tablefmt="pipe", disable_numparse=True)
