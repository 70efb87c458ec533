"""The READMEs: their code runs, their tables are the measured ones, what they name is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = {
    page: (ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "results/README.md")
}
README = PAGES["README.md"]


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_code_runs(block, capsys, tmp_path, monkeypatch):
    """Each prints an output's shape, or what the README shows behind it."""
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    shown = README.partition(block)[2].partition("```\n\n```\n")[2].partition("```")[0]
    assert printed == "(8, 10)\n" or (shown and printed.startswith(shown))


TABLES = {  # of a page, where they come from, and what they hold many of
    ("README.md", "imagenet"): ("imagenet/table.md", "not measured"),
    ("README.md", "claims"): ("claims.md", "**"),
    ("README.md", "benchmark"): ("benchmark/table.md", " to "),
    ("results/README.md", "claims in detail"): ("claims.md", "±"),
    ("results/README.md", "fashion_mnist/rank"): ("fashion_mnist/rank/table.md", "±"),
    ("results/README.md", "fashion_mnist/tcl"): ("fashion_mnist/tcl/table.md", "±"),
    ("results/README.md", "fashion_mnist/factorization"): (
        "fashion_mnist/factorization/table.md",
        "±",
    ),
    ("results/README.md", "few_samples"): ("few_samples/table.md", "±"),
    ("results/README.md", "mnist"): ("mnist/table.md", "±"),
}


@pytest.mark.parametrize("page, name", TABLES)
def test_table_is_that_of_the_results(page, name):
    path, many = TABLES[page, name]
    table = (ROOT / "results" / path).read_text(encoding="utf-8")
    shown = re.search(rf"<!-- table: {name} -->\n(.*?)\n<!-- end -->", PAGES[page], re.S).group(1)
    assert shown.strip() in table
    assert shown.count(many) >= 10


@pytest.mark.parametrize("page", PAGES)
def test_every_table_is_checked_and_every_link_leads_somewhere(page):
    assert {(page, name) for name in re.findall(r"<!-- table: (.+) -->", PAGES[page])} <= set(
        TABLES
    )
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", PAGES[page])
    folder = (ROOT / page).parent
    assert len(links) > 8
    assert [link for link in links if not (folder / link).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_left_to_do(page):
    assert "TODO" not in PAGES[page]


def test_example_config_is_the_real_one():
    (config,) = re.findall(r"```yaml\n# (\S+)\n(.*?)```", README, re.DOTALL)
    assert (ROOT / config[0]).read_text(encoding="utf-8") == config[1]


def test_scripts_are_there():
    scripts = set(re.findall(r"scripts/\w+\.py", README))
    assert scripts == {f"scripts/{path.name}" for path in (ROOT / "scripts").glob("*.py")}
