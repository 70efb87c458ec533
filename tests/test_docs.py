"""The guide: its code prints what it shows, its links lead somewhere, its keys are the schema's."""

import re
import shlex
from pathlib import Path
from typing import get_args
from unittest import mock

import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from trnet.config import Config, Head, load_suite
from trnet.config.schema import _HEADS
from trnet.result import Result

ROOT = Path(__file__).parent.parent
PAGES = {
    path.relative_to(ROOT / "docs").as_posix(): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs").rglob("*.md"))
}
CONFIGS = PAGES["configs.md"]
# Code, and what it prints, in a block directly after it.
BLOCKS = [
    pytest.param(*block.groups(), id=f"{name}-{place}")
    for name, text in PAGES.items()
    for place, block in enumerate(re.finditer(r"```python\n(.*?)```\n```\n(.*?)```", text, re.S))
]


@pytest.mark.parametrize("code, shown", BLOCKS)
def test_code_prints_what_is_shown(code, shown, capsys, tmp_path, monkeypatch):
    from trnet.data import DATASETS
    from trnet.models import BACKBONES

    monkeypatch.chdir(tmp_path)
    with mock.patch.dict(BACKBONES), mock.patch.dict(DATASETS):  # for what a page registers
        exec(compile(code, "docs", "exec"), {})
    assert shown and capsys.readouterr().out == shown


def test_all_code_is_shown_with_what_it_prints():
    assert len(BLOCKS) == sum(text.count("```python") for text in PAGES.values()) > 5


def test_every_key_of_a_result_is_in_the_guide():
    section = PAGES["runs.md"].partition("## Results")[2].partition("## Suites")[0]
    cells = re.findall(r"^\| (`.+?) \|", section, re.M)
    keys = {key for cell in cells for key in re.findall(r"`(\w+)`", cell)}
    assert keys == {*Result.__annotations__, "checksum"}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    links = re.findall(r"\]\((?!https?:)([^)\s]+)\)", PAGES[name])
    assert links or name.startswith("reference/")
    assert [link for link in links if not leads_somewhere(link, ROOT / "docs" / name)] == []


def leads_somewhere(link, page):
    file, _, anchor = link.partition("#")
    target = (page.parent / file) if file else page
    return target.exists() and (not anchor or anchor in anchors(target))


def anchors(page):
    """Of the headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_index_names_every_page():
    assert set(re.findall(r"\(([\w/]+\.md)\)", PAGES["index.md"])) == PAGES.keys() - {"index.md"}


@pytest.mark.parametrize("name", PAGES)
def test_nothing_points_up_to_the_readme(name):
    assert "(../README.md" not in PAGES[name]


def commands():
    """All that the pages show of ``trnet``, without what starts it and without comments."""
    for name, text in PAGES.items():
        for block in re.findall(r"```sh\n(.*?)```", text, re.S):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if "trnet" in words:
                    arguments = words[words.index("trnet") + 1 :]
                    yield pytest.param(
                        [word for word in arguments if word != "&"], id=f"{name}-{line}"
                    )


@pytest.mark.parametrize("arguments", list(commands()))
def test_commands_are_parsed(arguments):
    from trnet.cli import make_parser

    make_parser().parse_args(arguments)
    files = [word for word in arguments if re.fullmatch(r"configs/[\w/]+(\.yaml)?", word)]
    own = ("configs/shapes", *example_configs())
    assert [path for path in files if path not in own and not (ROOT / path).exists()] == []


def example_configs():
    return dict(re.findall(r"```yaml\n# (\S+)\n(.*?)```", CONFIGS, re.S))


def test_example_configs_are_a_suite(tmp_path):
    from trnet import experiment

    for name, text in example_configs().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    dense, trl = load_suite(tmp_path / "configs/shapes")
    assert (dense.name, trl.baseline, trl.suite) == ("dense", "dense", "shapes")
    assert experiment.count(dense).weights > experiment.count(trl).weights


def test_keys_and_defaults_are_those_of_the_schema():
    rows = re.findall(r"^\| `([\w.]+)` \|(.*?)\|.*\|$", CONFIGS, re.M)  # of three columns
    documented = {key: default.strip().strip("`") for key, default in rows}
    schema = schema_defaults(Config)
    assert documented.keys() ^ schema.keys() == set()
    assert documented.pop("suite") == "the folder"
    wrong = {
        key: (default, schema[key])
        for key, default in documented.items()
        if (default if default == "required" else parsed(default)) not in schema[key]
    }
    assert wrong == {}


def parsed(default):
    return YAML(typ="safe").load(default) if default else None


def schema_defaults(schema, prefix="", found=None):
    """Keys with dots, and for each its defaults; several, where schemas by type share a key."""
    found = {} if found is None else found
    for name, field in schema.model_fields.items():
        below = [s for s in (field.annotation, *get_args(field.annotation)) if is_schema(s)]
        below = list(_HEADS.values()) if below == [Head] else below
        for other in below:
            schema_defaults(other, f"{prefix}{name}.", found)
        if not below:
            default = "required" if field.is_required() else field.default
            found.setdefault(prefix + name, []).append(default)
    return found


def is_schema(annotation):
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
