"""The README: its code runs, its table is the measured one, what it names is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_code_runs(block, capsys):
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out == "(8, 10)\n"


@pytest.mark.parametrize("suite, columns", [("mnist", "±"), ("imagenet", "not measured")])
def test_table_is_that_of_the_results(suite, columns):
    table = (ROOT / f"results/{suite}/table.md").read_text(encoding="utf-8")
    shown = re.search(rf"<!-- table: {suite} -->\n(.*?)\n<!-- end -->", README, re.DOTALL).group(1)
    assert shown.strip() in table
    assert shown.count(columns) > 15


def test_links_lead_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert len(links) > 8
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_example_config_is_the_real_one():
    (config,) = re.findall(r"```yaml\n# (\S+)\n(.*?)```", README, re.DOTALL)
    assert (ROOT / config[0]).read_text(encoding="utf-8") == config[1]


def test_scripts_are_there():
    scripts = set(re.findall(r"scripts/\w+\.py", README))
    assert scripts == {f"scripts/{path.name}" for path in (ROOT / "scripts").glob("*.py")}
