"""CONTRIBUTING: its plugin trains by the command, what it names is there; versions agree."""

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

from ruamel.yaml import YAML

import trnet

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_plugin_trains(tmp_path):
    for name, text in re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE, re.S):
        (tmp_path / name).write_text(text, encoding="utf-8")
    (command,) = re.findall(r"```sh\ntrnet (.*)\n```", PAGE)
    trained = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "trnet", *command.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert trained.returncode == 0, trained.stderr
    assert "Top-1" in trained.stdout


def test_registries_are_there():
    names = re.findall(r"\| `(trnet\.[\w.]+)\.(\w+)` \|", PAGE)
    assert len(names) == 5
    assert all(isinstance(getattr(import_module(module), name), dict) for module, name in names)


def test_folders_and_links_lead_somewhere():
    folders = re.findall(r"^((?:trnet|configs|results|tests)/\w*/?) ", PAGE, re.M)
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", PAGE)
    assert len(folders) > 8 and links
    assert [path for path in folders + links if not (ROOT / path).exists()] == []


def test_the_citation_and_the_changelog_name_the_version():
    citation = YAML(typ="safe").load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert citation["version"] == trnet.__version__
    assert f"## [{trnet.__version__}] - {citation['date-released']}" in changelog
    assert {reference["url"] for reference in citation["references"]} == {
        "https://arxiv.org/abs/1706.00439",
        "https://arxiv.org/abs/1707.08308",
    }
