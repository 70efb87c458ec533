"""What is published: the archives' content, and a wheel that works outside the repository."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BUILT_FROM = (
    *("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "Makefile"),
    *("CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "mkdocs.yml"),
    *("trnet", "configs", "docs", "examples", "results", "scripts", "tests", "benchmarks"),
)
CONFIG = """
name: tiny
dataset: {name: mnist, samples: 200}
model: {backbone: small_vgg2, head: {type: trl, rank: [4, 2, 2, 4]}}
train: {epochs: 1, batch_size: 50, learning_rate: 0.05, schedule: {type: cosine}}
"""


def output(*command: object, cwd: Path) -> str:
    """Of a program that does not find the repository on Python's path."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """An sdist, and the wheel that is built from it; of a copy, as building leaves files."""
    source = tmp_path_factory.mktemp("source")
    for name in BUILT_FROM:
        path = ROOT / name
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, source / name)
    output(sys.executable, "-m", "build", "--no-isolation", cwd=source)
    return source / "dist"


@pytest.fixture(scope="module")
def wheel(dist) -> Path:
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def fresh(wheel, tmp_path_factory) -> Path:
    """The programs of an environment that has the wheel, and borrows what the wheel depends on."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, symlinks=True)
    programs = folder / "bin"
    install = ("install", "--quiet", "--no-deps", "--no-index", wheel)
    output(sys.executable, "-m", "pip", "--python", programs / "python", *install, cwd=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Python reads no .pth files of a folder that one names, so an editable trnet stays out.
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return programs


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"trnet"}
    held = {name for name in names if not name.startswith("trnet-")}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "trnet").rglob("*.py")}
    assert held == modules | {"trnet/py.typed", "trnet/data/glyphs.csv"}
    assert any(name.endswith("/LICENSE") for name in names)


def test_the_sdist_holds_what_its_commands_work_on(dist):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"LICENSE", "README.md", "CHANGELOG.md", "trnet/py.typed", "Makefile"}
    wanted |= {"trnet/data/glyphs.csv", "examples/requirements.txt"}
    wanted |= {"configs/mnist/vgg.yaml", "results/published.yaml", "scripts/train.py"}
    assert wanted <= names
    assert not [name for name in names if name.endswith(".pyc") or "__pycache__" in name]


def test_the_metadata_is_complete(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = message_from_bytes(archive.read(name))
    assert set(metadata["Requires-Python"].split(",")) == {">=3.9", "<3.12"}
    assert "Apache-2.0" in (metadata["License"], metadata["License-Expression"])
    assert metadata.get_payload().startswith("# trnet")
    assert set(metadata.get_all("Provides-Extra")) == {
        "cpu",
        "cu112",
        "experiments",
        "onnx",
        "tensorboard",
        "test",
        "docs",
    }


def test_twine_accepts_both(dist):
    checked = output(sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir(), cwd=dist)
    assert checked.count("PASSED") == 2


def test_the_installed_command_trains_outside_the_repository(fresh, tmp_path):
    where = "import trnet; print(trnet.__file__)"
    found = Path(output(fresh / "python", "-c", where, cwd=tmp_path).strip())
    assert found.is_relative_to(fresh.parent)
    config = tmp_path / "mine" / "tiny.yaml"
    config.parent.mkdir()
    config.write_text(CONFIG)
    printed = output(fresh / "trnet", "train", config, cwd=tmp_path)
    result = tmp_path / "runs/mine/tiny/seed0/result.json"
    assert printed.splitlines()[-1].endswith("runs/mine/tiny/seed0/result.json")
    assert json.loads(result.read_text())["dataset"]["train"] == 200
    scores = output(fresh / "trnet", "evaluate", result.parent, cwd=tmp_path)
    assert printed.splitlines()[0].split() == scores.splitlines()[1].split()
