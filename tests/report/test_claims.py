"""Verdicts on published claims: by hand, at the edges of a range, and of the claims we test."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from trnet.errors import UserError
from trnet.report.claims import BETTER, WORSE, Finding, details, judge, overview, p_value
from trnet.report.published import Claim, Comparison, read_published
from trnet.report.summary import Measurement
from trnet.report.write import findings as found_claims

ROOT = Path(__file__).parents[2]
INFINITE = float("inf")


def change(mean: float, half: float) -> Measurement:
    """A change over three seeds whose 95 % interval is that wide: t is 4.3027 for two degrees."""
    return Measurement(mean, half * 3**0.5 / 4.302652729, 3)


def test_the_interval_by_hand():
    assert change(1.0, 0.25).interval == pytest.approx(0.25)
    assert Measurement(0.0, 1.0, 5).interval == pytest.approx(2.776445105 / 5**0.5)
    assert Measurement(0.0, None, 1).interval is None


@pytest.mark.parametrize(
    "measured, low, high, expected",
    [
        (change(0.1, 0.3), -0.25, INFINITE, "supported"),
        (change(-0.1, 0.3), -0.25, INFINITE, "undecided"),
        (change(-0.6, 0.3), -0.25, INFINITE, WORSE),
        (change(-0.5, 0.3), -0.25, INFINITE, "undecided"),
        (change(-2.0, 0.5), -5, -1, "supported"),
        (change(-0.5, 0.4), -5, -1, BETTER),
        (change(-9.0, 0.4), -5, -1, WORSE),
        (change(-3.0, 4.0), -5, -1, "undecided"),
        (Measurement(0.4, None, 1), 0, INFINITE, "one seed only"),
        (Measurement(0.1, 1e-15, 2), 0, INFINITE, "undecided"),  # of too few images to differ
        (Measurement(0.0, 0.0, 3), 0, INFINITE, "undecided"),
        (change(0.5, 0.2), -INFINITE, 0, BETTER),
        (None, 0, INFINITE, "not measured"),
    ],
)
def test_verdict_of_a_single_finding(measured, low, high, expected):
    (finding,) = judge([found(measured, low, high)])
    assert finding.verdict == expected


TEST = Comparison(experiment="toy/small", against="base")
OTHER = Comparison(experiment="tuned/small", against="base")


def found(measured: Measurement | None, low: float = 0, high: float = INFINITE) -> Finding:
    claim = Claim(claim="a", published="b", source="c", low=low, high=high, tested_by=(TEST,))
    return Finding(claim, TEST, 70.0, measured)


def test_p_values_are_those_of_scipy():
    changes = np.random.default_rng(0).normal(0.4, 0.5, size=5)
    measured = Measurement(changes.mean(), changes.std(ddof=1), 5)
    expected = stats.ttest_1samp(changes, -0.25).pvalue
    assert p_value(measured, found(measured, low=-0.25).claim) == pytest.approx(expected)
    assert judge([found(measured, low=-0.25)])[0].p_value == pytest.approx(expected)


def test_holm_by_hand():
    """Of p-values p1 < p2 < p3, corrected ones are 3·p1, 2·p2 and p3, and never below another's."""
    halves = [0.30, 0.10, 0.31, 0.9]
    alone = [p_value(change(0.5, half), found(None).claim) for half in halves]
    corrected = [finding.p_value for finding in judge([found(change(0.5, h)) for h in halves])]
    assert corrected[1] == pytest.approx(4 * alone[1])
    assert corrected[0] == pytest.approx(3 * alone[0])
    assert corrected[2] == corrected[0] > 2 * alone[2]
    assert corrected[3] == alone[3]


def test_many_claims_need_more_evidence_than_one():
    lonely = judge([found(change(0.5, 0.45))])
    crowd = judge([found(change(0.5, 0.45)) for _ in range(20)])
    assert lonely[0].verdict == "supported" and {f.verdict for f in crowd} == {"undecided"}


@pytest.mark.parametrize("other", [None, Measurement(0.4, None, 1)])
def test_a_verdict_stays_whatever_is_measured_after_it(other):
    """What is not measured, or from a single seed, counts, and shows no p."""
    measured = found(change(0.1, 0.3), low=-0.25)
    before, *_ = together = judge([measured, found(other), found(other)])
    assert before.p_value == pytest.approx(3 * judge([measured])[0].p_value)
    for half in (5.0, 0.001):
        after, *_ = judge([measured, *[found(change(0.01, half))] * 2])
        assert after.p_value <= before.p_value
    rows = [line.split("|") for line in details(together).splitlines()[2:]]
    assert sorted(bool(row[4].strip()) for row in rows) == [False, False, True]


@pytest.mark.parametrize("half, printed", [(0.3, "< 0.001"), (1.0, "0.003"), (2.0, "0.013")])
def test_no_p_is_printed_as_zero(half, printed):
    (finding,) = judge([found(change(4.0, half))])
    expected = stats.t.sf(4 / (half / stats.t.ppf(0.975, 2)), 2) * 2
    assert finding.p_value == pytest.approx(expected)
    (row,) = details([finding]).splitlines()[2:]
    assert row.split("|")[4].strip() == printed


def findings() -> list[Finding]:
    common = {"source": "a talk", "tested_by": (TEST,)}
    gain = Claim(claim="gains", published="+1", low=0, **common)
    loss = Claim(claim="costs", published="-1", low=-2, high=-0.5, **common)
    return judge(
        [
            Finding(gain, TEST, 70.0, change(1.0, 0.2)),
            Finding(gain, OTHER, 70.0, change(-1.0, 0.2)),
            Finding(loss, TEST, 70.0, change(-1.0, 0.1)),
        ]
    )


def test_what_is_not_as_published_comes_first():
    lines = details(findings()).splitlines()[2:]
    assert [line.split("|")[2].strip() for line in lines] == [WORSE, "supported", "supported"]
    assert "-1.00 ± 0.20" in lines[0] and "above 0" in lines[0] and "-2 to -0.5" in lines[2]


def test_a_claim_has_one_line_with_every_experiment():
    gains, costs = overview(findings()).splitlines()[2:]
    assert "toy/small +1.00 ± 0.20; tuned/small -1.00 ± 0.20" in gains
    assert "| small -1.00 ± 0.10 " in costs
    assert f"**{WORSE}** 1 of 2, **supported** 1 of 2" in gains
    assert "**supported** " in costs


def test_our_claims_name_experiments_of_ours_and_sources(results, tmp_path):
    found = found_claims(ROOT / "configs", tmp_path, results)
    assert {f.claim.claim for f in found} == {
        claim.claim for claim in read_published(ROOT / "results/published.yaml").claims
    }
    assert len(found) > 15 and all(
        "arXiv" in f.claim.source or "talk" in f.claim.source for f in found
    )
    savings = {
        f.comparison.name: f.space_savings for f in found if f.comparison.suite.endswith("samples")
    }
    for f in found:
        claimed = re.search(r"(\d+) % savings", f.claim.claim)
        if claimed:
            assert abs(f.space_savings - int(claimed.group(1))) < 1.5
    assert len(savings) == 4


def test_savings_are_against_the_other_head_of_the_comparison(results, tmp_path):
    """Pooling and a dense layer have a tenth of the weights of the TRL compared with them."""
    found = found_claims(ROOT / "configs", tmp_path, results)
    by_other = {
        f.comparison.against: f.space_savings
        for f in found
        if f.comparison.name == "trl_dropout_100"
    }
    trl = 16 * 4 * 4 * 10 + 32 * 16 + 2 * 7 * 4 + 10 * 10
    assert by_other["gap_100"] == pytest.approx(100 * (1 - trl / 320))
    assert by_other["dense_100"] == pytest.approx(100 * (1 - trl / (1568 * 256 + 2560)))


def test_the_written_claims_are_those_of_the_results(results, tmp_path):
    found = found_claims(ROOT / "configs", tmp_path, results)
    written = (ROOT / "results/claims.md").read_text(encoding="utf-8")
    assert overview(found) in written and details(found) in written


TESTED = "tested_by: [{experiment: mnist/vgg_trl_8}]"
CLAIM = "claim: a, published: b, source: c"


@pytest.mark.parametrize(
    "content, said",
    [
        ("", "valid dictionary"),
        ("[1]", "valid dictionary"),
        ("sources:", "sources"),
        ("beside: {toy: 3}", "beside.toy"),
        ("claims: 3", "claims"),
        ("claims: [{claim: a}]", "claims.0.published"),
        (
            f"claims: [{{{CLAIM}, low: 0, {TESTED}}}]",
            "sources: expected 'c', which is used as a source, got none",
        ),
        (f"sources: {{c: d}}\nclaims: [{{{CLAIM}, lwo: 1, {TESTED}}}]", "claims.0.lwo"),
        (
            f"sources: {{c: d}}\nclaims: [{{{CLAIM}, low: 3, high: 1, {TESTED}}}]",
            "expected low < high",
        ),
        (
            f"sources: {{c: d}}\nclaims: [{{{CLAIM}, {TESTED}}}]",
            "claims.0: expected low, high or both, got none",
        ),
        ("toy: {base: {top1: 77.1}}", "toy.base: source: expected one of sources, got none"),
        (f"sources: {{c: d}}\nclaims: [{{{CLAIM}, tested_by: []}}]", "claims.0.tested_by"),
        (
            f"sources: {{c: d}}\nclaims: [{{{CLAIM}, low: 0, {TESTED}}}]".replace(
                "vgg_trl_8", "no"
            ),
            "expected an experiment of mnist, got 'no'",
        ),
        (
            f"sources: {{c: d}}\nclaims: [{{{CLAIM}, low: 0, {TESTED}}}]".replace("_trl_8", ""),
            "'vgg' is a baseline",
        ),
        (b"sources: {c: \xff}", "UTF-8"),
    ],
)
def test_broken_claims_are_named(content, said, tmp_path):
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "published.yaml").write_bytes(content)
    with pytest.raises(UserError, match=rf"^[^\n]*published.yaml[^\n]*{said}[^\n]*$"):
        found_claims(ROOT / "configs", tmp_path, tmp_path)
