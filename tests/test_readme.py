"""The README: its code runs, its table is the measured one, what it names is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_code_runs(block, capsys, tmp_path, monkeypatch):
    """Each prints an output's shape, or what the README shows behind it."""
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    shown = README.partition(block)[2].partition("```\n\n```\n")[2].partition("```")[0]
    assert printed == "(8, 10)\n" or (shown and printed.startswith(shown))


@pytest.mark.parametrize(
    "suite, columns", [("mnist", "±"), ("imagenet", "not measured"), ("benchmark", " to ")]
)
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
