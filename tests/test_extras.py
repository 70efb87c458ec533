"""Extras: the layers need none but MXNet, and a missing package is named in one line."""

import re
import runpy
from pathlib import Path

import pytest

from trnet.errors import MissingStack
from trnet.extras import PACKAGES, named_if_missing

ROOT = Path(__file__).parent.parent
HIDE = """
import sys
from trnet.extras import PACKAGES

class Hidden:
    '''Finds first, and says that the packages of the extra are not there.'''
    def find_spec(self, name, path=None, target=None):
        if name in PACKAGES.keys() - {"scipy", "mxnet"}:  # scipy is TensorLy's, too
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
"""


@pytest.fixture(scope="module")
def described() -> dict:
    """What setup.py says of the package."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("setuptools.setup", found.update)
        runpy.run_path(str(ROOT / "setup.py"))
    return found


def test_every_package_that_is_named_is_in_an_extra(described):
    extras = described["extras_require"]
    wanted = extras["cpu"] + extras["experiments"] + extras["onnx"] + extras["tensorboard"]
    listed = {re.match(r"[\w.-]+", one)[0] for one in wanted}
    # The first works without; the second is onnx's own.
    assert set(PACKAGES.values()) == listed - {"argcomplete", "protobuf"}


def test_the_layers_are_thin(described):
    names = {wanted.partition("=")[0] for wanted in described["install_requires"]}
    assert names == {"numpy", "tensorly"}


def test_layers_work_without_the_experiments(run_python):
    printed = run_python(
        HIDE
        + """
import mxnet as mx, trnet
net = trnet.TRL(10, rank=(4, 3, 3, 5))
net.initialize()
print(net(mx.nd.ones((2, 8, 6, 6))).shape)
tcl = trnet.TCL((4, 3, 3), implementation="tensorly")
tcl.initialize()
print(tcl(mx.nd.ones((2, 8, 6, 6))).shape)
"""
    )
    assert printed.splitlines() == ["(2, 10)", "(2, 4, 3, 3)"]


def test_models_name_what_they_need(run_python):
    printed = run_python(
        HIDE
        + """
try:
    import trnet.models
except ImportError as error:
    print(type(error).__name__, error)
"""
    )
    assert printed == (
        "MissingStack trnet.models needs the package gluoncv (pip install 'trnet[experiments]')\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        "train configs/mnist/vgg.yaml",
        "evaluate runs/mnist",
        "export runs/mnist",
        "reproduce configs/mnist",
        "tabulate configs/mnist",
        "plot configs/mnist",
        "tune configs/mnist",
        "prepare images records",
        "report",
    ],
)
def test_a_command_names_what_it_needs(arguments, run_python):
    """One line in place of a traceback, with exit code 2."""
    printed = run_python(
        HIDE
        + f"""
import contextlib, io
from trnet import cli
said = io.StringIO()
try:
    with contextlib.redirect_stderr(said):
        cli.main({arguments.split()!r})
except SystemExit as stopped:
    print(stopped.code, said.getvalue(), end="")
"""
    )
    assert printed.startswith("2 error: trnet") and printed.count("\n") == 1
    assert "needs the package" in printed and "pip install 'trnet[experiments]'" in printed


def test_without_mxnet_both_extras_are_named(monkeypatch):
    monkeypatch.setattr("trnet.extras.find_spec", lambda name: None)
    with pytest.raises(MissingStack) as caught, named_if_missing("trnet train"):
        raise ModuleNotFoundError("No module named 'pydantic'", name="pydantic")
    assert str(caught.value) == (
        "trnet train needs the package pydantic (pip install 'trnet[cpu,experiments]')"
    )


def test_a_broken_package_is_not_called_missing():
    with pytest.raises(ModuleNotFoundError), named_if_missing("trnet train"):
        raise ModuleNotFoundError("No module named 'pydantic.v9'", name="pydantic.v9")


def test_tables_configs_and_plans_import_no_mxnet(run_python):
    """Each of their modules, so that tables and errors are instant."""
    paths = [p for part in ("config", "report") for p in (ROOT / "trnet" / part).glob("*.py")]
    names = ["trnet.tensor.plan"]
    names += [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    run_python(
        f"""
        import sys
        from importlib import import_module
        for name in {names!r}:
            import_module(name.removesuffix(".__init__"))
            assert "mxnet" not in sys.modules, name
        """
    )
