"""What mxnet-cu112 links is loaded before it, in a site-packages of empty files."""

from __future__ import annotations

import ctypes
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from trnet.errors import MissingStack
from trnet.tensor import backend, cuda

ROOT = Path(__file__).parents[2]

# readelf -d of mxnet-cu112 1.9.1 and of the packages of CUDA 11.8.
MXNET_LINKS = {
    "libcudart.so.11.0",
    "libnvrtc.so.11.2",
    "libnvToolsExt.so.1",
    "libcublas.so.11",
    "libcufft.so.10",
    "libcurand.so.10",
    "libcusolver.so.11",
    "libnccl.so.2",
    "libcudnn.so.8",
}
LINKS = {
    "libcublas.so.11": {"libcublasLt.so.11"},
    "libcusolver.so.11": {"libcublas.so.11", "libcublasLt.so.11"},
    "libcudnn_ops_train.so.8": {"libcudnn_ops_infer.so.8"},
    "libcudnn_cnn_infer.so.8": {"libcudnn_ops_infer.so.8"},
    "libcudnn_cnn_train.so.8": {"libcudnn_ops_train.so.8", "libcudnn_cnn_infer.so.8"},
    "libcudnn_adv_infer.so.8": {"libcudnn_ops_infer.so.8"},
    "libcudnn_adv_train.so.8": {"libcudnn_ops_train.so.8", "libcudnn_adv_infer.so.8"},
}


class Loader:
    """Stands for ``ctypes.CDLL`` and the importer: loads nothing, notes the order."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def load(self, path: str, mode: int = ctypes.DEFAULT_MODE) -> None:
        assert Path(path).is_file() and mode == ctypes.RTLD_GLOBAL
        name = Path(path).name
        for needed in LINKS.get(name, set()) - set(self.events):
            message = "cannot open shared object file: No such file or directory"
            raise OSError(f"{needed}: {message}")
        self.events.append(name)

    def find_spec(self, name: str, path=None, target=None) -> None:
        if name == "mxnet":
            self.events.append(name)
            raise OSError("libcuda.so.1: cannot open shared object file: No such file or directory")


@pytest.fixture
def loader(monkeypatch) -> Loader:
    loader = Loader()
    monkeypatch.setattr(ctypes, "CDLL", loader.load)
    monkeypatch.setattr(sys, "meta_path", [loader, *sys.meta_path])
    monkeypatch.delitem(sys.modules, "mxnet")
    return loader


def install(site: Path, package: str) -> Path:
    info = site / f"{package.replace('-', '_')}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
    return info


@pytest.fixture
def site(tmp_path, monkeypatch) -> Path:
    """A site-packages with the NVIDIA packages alone, in place of the real one."""
    for name, files in cuda.LIBRARIES.items():
        install(tmp_path, f"nvidia-{name}-cu11")
        folder = tmp_path / "nvidia" / name.replace("-", "_") / "lib"
        folder.mkdir(parents=True)
        for file in files:
            (folder / file).touch()
    others = [path for path in sys.path if not path.endswith(("site-packages", "dist-packages"))]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *others])
    return tmp_path


def fail_to_import() -> str:
    """What the backend says where it cannot be imported."""
    with pytest.raises(ImportError) as caught:
        runpy.run_path(backend.__file__)
    assert type(caught.value) is MissingStack and "\n" not in str(caught.value)
    return str(caught.value)


def test_what_mxnet_links_is_loaded_before_it(site, loader):
    install(site, "mxnet-cu112")
    fail_to_import()
    *libraries, last = loader.events
    assert last == "mxnet" and set(libraries) >= MXNET_LINKS
    assert len(set(libraries)) == len(libraries) == sum(map(len, cuda.LIBRARIES.values()))


@pytest.mark.parametrize("packages", [[], ["mxnet"], ["mxnet-cu110"]])
def test_nothing_is_loaded_for_another_mxnet(site, loader, packages):
    for package in packages:
        install(site, package)
    fail_to_import()
    assert loader.events == ["mxnet"]


def test_nothing_is_loaded_beside_an_imported_mxnet(site, loader, monkeypatch):
    install(site, "mxnet-cu112")
    monkeypatch.setitem(sys.modules, "mxnet", object())
    cuda.preload()
    assert loader.events == []


def test_what_no_package_brings_is_left_to_the_system(site, loader):
    install(site, "mxnet-cu112")
    (site / "nvidia_nccl_cu11-1.dist-info").rename(site / "elsewhere")
    (site / "nvidia/cufft/lib/libcufft.so.10").unlink()
    cuda.preload()
    everything = {file for files in cuda.LIBRARIES.values() for file in files}
    assert everything - set(loader.events) == {"libnccl.so.2", "libcufft.so.10"}


def test_both_at_once_are_refused_before_anything_is_loaded(site, loader):
    install(site, "mxnet-cu112")
    install(site, "mxnet")
    message = fail_to_import()
    assert message.startswith("mxnet and mxnet-cu112 are both installed")
    assert "pip uninstall mxnet mxnet-cu112" in message
    assert loader.events == []


def test_a_library_that_a_package_lacks_is_named(site, loader):
    install(site, "mxnet-cu112")
    (site / "nvidia/cublas/lib/libcublasLt.so.11").unlink()
    message = fail_to_import()
    assert "NVIDIA's libcublasLt.so.11 (pip install 'trnet[cu112]')" in message
    assert "mxnet" not in loader.events


def test_a_script_ends_in_the_line(tmp_path):
    """With the mxnet that runs these tests, and another that only says it is there."""
    install(tmp_path, "mxnet-cu112")
    install(tmp_path, "mxnet")
    done = subprocess.run(
        [sys.executable, "scripts/evaluate.py", "runs/none"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: mxnet and mxnet-cu112 are both installed")
    assert done.stderr.count("\n") == 1


def test_the_extra_brings_what_is_loaded(monkeypatch):
    described = {}
    monkeypatch.setattr("setuptools.setup", described.update)
    runpy.run_path(str(ROOT / "setup.py"))
    extra = described["extras_require"]["cu112"]
    assert {"mxnet-cu112==1.9.1", "nvidia-cudnn-cu11<9"} < set(extra)
    brought = {wanted.partition("<")[0] for wanted in extra if wanted.startswith("nvidia-")}
    assert brought == {f"nvidia-{name}-cu11" for name in cuda.LIBRARIES}
