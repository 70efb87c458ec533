"""The site: it builds strictly and offline, and its reference comes from the docstrings."""

import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    # A proxy that nobody answers: whatever tried to reach the network fails.
    nowhere = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https")}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_built(site):
    pages = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    built = {path.relative_to(site) for path in site.rglob("*.html")}
    assert len(pages) > 15
    assert {page.with_suffix(".html") for page in pages} <= built


@pytest.mark.parametrize(
    "page, name, said",
    [
        ("layers", "trnet.layers.TRL", "Tensor Regression Networks"),
        ("layers", "trnet.layers.TCL", "Contracts every mode"),
        ("tensor", "trnet.tensor.plan.Plan", "The products of a contraction"),
        ("training", "trnet.training.loop.train", "last checkpoint"),
    ],
)
def test_the_reference_has_the_docstrings(site, page, name, said):
    html = (site / f"reference/{page}.html").read_text(encoding="utf-8")
    assert f'id="{name}"' in html
    assert said in unescape(re.sub(r"<[^>]+>", "", html))


def test_nothing_is_loaded_from_outside(site):
    html = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.html"))
    loaded = re.findall(r"<(?:script|img|iframe)[^>]* src=\"?(https?:[^\s\">]+)", html)
    loaded += re.findall(r"<link(?![^>]*canonical)[^>]* href=\"?(https?:[^\s\">]+)", html)
    assert html.count("<script") > 10 and loaded == []
