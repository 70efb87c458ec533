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
    """Each prints an output's shape, or what the README shows after it."""
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    shown = README.partition(block)[2].partition("```\n\n```\n")[2].partition("```")[0]
    assert printed == "(8, 10)\n" or (shown and printed.startswith(shown))


TABLES = {  # of a page, where they come from, and what they hold many of
    ("README.md", "imagenet"): ("imagenet/table.md", " | ", 60),
    ("README.md", "claims"): ("claims.md", "**", 10),
    ("README.md", "benchmark"): ("benchmark/table.md", " to ", 10),
    ("results/README.md", "claims in detail"): ("claims.md", "±", 10),
    ("results/README.md", "glyphs/scratch"): ("glyphs/scratch/table.md", "±", 1),
    ("results/README.md", "glyphs/joint"): ("glyphs/joint/table.md", "±", 5),
    ("results/README.md", "glyphs/frozen"): ("glyphs/frozen/table.md", "+", 2),
    ("results/README.md", "glyphs/tcl"): ("glyphs/tcl/table.md", "+", 4),
    ("results/README.md", "glyphs/tcl_vgg"): ("glyphs/tcl_vgg/table.md", "+", 2),
    ("results/README.md", "glyphs/start"): ("glyphs/start/table.md", "±", 9),
    ("results/README.md", "fashion_mnist/rank"): ("fashion_mnist/rank/table.md", "±", 10),
    ("results/README.md", "fashion_mnist/tcl"): ("fashion_mnist/tcl/table.md", "±", 10),
    ("results/README.md", "fashion_mnist/factorization"): (
        "fashion_mnist/factorization/table.md",
        "±",
        10,
    ),
    ("results/README.md", "few_samples"): ("few_samples/table.md", "±", 10),
    ("results/README.md", "few_samples_adam"): ("few_samples_adam/table.md", "±", 30),
    ("results/README.md", "mnist"): ("mnist/table.md", "±", 10),
}


def rows(text):
    """Each row of the Markdown tables in a text, its cells by their headings."""
    found, heading = [], None
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            heading = None
        elif heading is None:
            heading = cells
        elif set("".join(cells)) - set(":-"):
            found.append(dict(zip(heading, cells)))
    return found


@pytest.mark.parametrize("page, name", TABLES)
def test_table_is_that_of_the_results(page, name):
    """Every row is one of the results', in some of its columns."""
    path, many, least = TABLES[page, name]
    measured = rows((ROOT / "results" / path).read_text(encoding="utf-8"))
    shown = re.search(rf"<!-- table: {name} -->\n(.*?)\n<!-- end -->", PAGES[page], re.S).group(1)
    found = rows(shown)
    assert found and shown.count(many) >= least
    assert [row for row in found if not any(row.items() <= full.items() for full in measured)] == []


def test_the_front_page_is_short_and_its_tables_are_narrow():
    assert len(README.splitlines()) <= 170
    assert max(len(row) for row in rows(README)) <= 7


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


@pytest.mark.parametrize("line", re.findall(r"^trnet .+?(?=  +#|$)", README, re.M))
def test_commands_are_parsed(line):
    from trnet.cli import make_parser

    options = vars(make_parser().parse_args(line.split()[1:]))
    named = [options[key] for key in ("config", "suite") if key in options]
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_make_targets_are_there():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert set(re.findall(r"\bmake (\w+)", README)) <= set(targets)
