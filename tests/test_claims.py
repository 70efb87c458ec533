"""Verdicts on published claims: by hand, at their edges, and of the claims that we test."""

from pathlib import Path

import pytest

from trnet import suite
from trnet.errors import UserError
from trnet.report.claims import (
    BETTER,
    WORSE,
    Claim,
    Comparison,
    Finding,
    details,
    overview,
    read_claims,
    verdict,
)
from trnet.report.summary import Measurement

ROOT = Path(__file__).parent.parent
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
        (Measurement(0.4, None, 1), 0, INFINITE, "undecided"),
        (None, 0, INFINITE, "not measured"),
    ],
)
def test_verdict(measured, low, high, expected):
    assert verdict(measured, low, high) == expected


def findings() -> list[Finding]:
    gain = Claim(claim="gains", published="+1", source="a talk", low=0, tested_by=())
    loss = Claim(claim="costs", published="-1", source="a talk", low=-2, high=-0.5, tested_by=())
    test = Comparison(experiment="toy/small", against="base")
    return [
        Finding(gain, test, 70.0, change(1.0, 0.2)),
        Finding(gain, test, 70.0, change(-1.0, 0.2)),
        Finding(loss, test, 70.0, change(-1.0, 0.2)),
    ]


def test_what_is_not_as_published_comes_first():
    lines = details(findings()).splitlines()[2:]
    assert [line.split("|")[2].strip() for line in lines] == [WORSE, "supported", "supported"]
    assert "-1.00 ± 0.20" in lines[0] and "above 0" in lines[0] and "-2 to -0.5" in lines[2]


def test_a_claim_has_one_line_with_every_experiment():
    gains, costs = overview(findings()).splitlines()[2:]
    assert "small +1.00 ± 0.20; small -1.00 ± 0.20" in gains
    assert f"**{WORSE}** 1 of 2, **supported** 1 of 2" in gains
    assert "**supported** " in costs


def test_our_claims_name_experiments_of_ours_and_sources(tmp_path):
    found = suite.findings(ROOT / "configs", tmp_path, ROOT / "results")
    assert {f.claim.claim for f in found} == {
        claim.claim for claim in read_claims(ROOT / "results/published.yaml")
    }
    assert len(found) > 15 and all(
        "arXiv" in f.claim.source or "talk" in f.claim.source for f in found
    )
    savings = {f.comparison.experiment.rpartition("/")[2]: f.space_savings for f in found}
    for name, percent in savings.items():
        if name.split("_")[0] in ("alexnet", "vgg"):
            assert abs(percent - int(name.split("_")[2])) < 1.3
    assert abs(savings["flat_trl_67"] - 68.2) < 0.5 and abs(savings["flat_trl_25"] - 92.4) < 0.5


def test_the_written_claims_are_those_of_the_results(tmp_path):
    found = suite.findings(ROOT / "configs", tmp_path, ROOT / "results")
    written = (ROOT / "results/claims.md").read_text(encoding="utf-8")
    assert overview(found) in written and details(found) in written


@pytest.mark.parametrize(
    "content, said",
    [
        ("claims: 3", "claims"),
        ("claims: [{claim: a}]", "claims.0.published"),
        (
            "claims: [{claim: a, published: b, source: c, tested_by: []}]",
            "sources: 'c' is missing",
        ),
        (
            "sources: {c: d}\nclaims: [{claim: a, published: b, source: c, lwo: 1, tested_by: []}]",
            "claims.0.lwo",
        ),
        (
            "sources: {c: d}\nclaims: [{claim: a, published: b, source: c, tested_by: "
            "[{experiment: mnist/nothing}]}]",
            "'nothing' is no experiment of mnist",
        ),
    ],
)
def test_broken_claims_are_named(content, said, tmp_path):
    (tmp_path / "published.yaml").write_text(content)
    with pytest.raises(UserError, match=rf"^[^\n]*published.yaml[^\n]*{said}[^\n]*$"):
        suite.findings(ROOT / "configs", tmp_path, tmp_path)
