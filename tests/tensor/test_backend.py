"""TensorLy's backend beside legacy Gluon, and what is said where MXNet does not import."""

from __future__ import annotations

import runpy
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

import mxnet as mx
import pytest
import tensorly as tl

from trnet.tensor import backend

NUMPY_BOOL = """module 'numpy' has no attribute 'bool'.
`np.bool` was a deprecated alias for the builtin `bool`. To avoid this error in existing code, \
use `bool` by itself.
The aliases was originally deprecated in NumPy 1.20; for more details and guidance see the \
original release note at:
    https://numpy.org/devdocs/release/1.20.0-notes.html#deprecations"""


def semantics() -> tuple[bool, bool]:
    return mx.util.is_np_shape(), mx.util.is_np_array()


def test_scope_leaves_no_trace():
    assert semantics() == (False, False)
    before = tl.get_backend()
    with backend.tensorly_scope() as inside:
        assert inside is tl and tl.get_backend() == "mxnet" and semantics() == (True, True)
        with backend.tensorly_scope():
            pass
        assert tl.get_backend() == "mxnet" and semantics() == (True, True)
    assert tl.get_backend() == before and semantics() == (False, False)


def test_scope_leaves_no_trace_after_an_exception():
    before = tl.get_backend()
    with pytest.raises(RuntimeError, match="inside"), backend.tensorly_scope():
        raise RuntimeError("inside")
    assert tl.get_backend() == before and semantics() == (False, False)


def test_scope_keeps_the_callers_numpy_semantics():
    with mx.util.np_shape(True), mx.util.np_array(True):
        with backend.tensorly_scope():
            pass
        assert semantics() == (True, True)


def test_gluoncv_runs_beside_the_layers(run_python):
    """Loading TensorLy's MXNet backend in a fresh process is what breaks GluonCV's networks."""
    run_python("""
        import tensorly as tl
        import trnet.layers
        from trnet.tensor.backend import mx, tensorly_scope

        layer = trnet.layers.TRL(3, (2, 2, 2), in_shape=(4, 5), implementation="tensorly")
        layer.initialize()
        assert layer(mx.nd.ones((2, 4, 5))).shape == (2, 3)
        with tensorly_scope():
            pass
        assert tl.get_backend() == "numpy"
        assert not mx.util.is_np_shape() and not mx.util.is_np_array()

        from gluoncv.model_zoo import resnet18_v1
        net = resnet18_v1(pretrained=False)
        net.initialize()
        assert net(mx.nd.ones((1, 3, 32, 32))).shape == (1, 1000)
    """)


def test_a_command_imports_mxnet_without_what_it_takes_along(run_python):
    run_python("""
        import os, sys
        os.environ["TRNET_COMMAND"] = "1"
        from trnet.tensor.backend import mx
        assert not {"sklearn", "scipy.stats"} & sys.modules.keys()
        import scipy.stats, sklearn.base
        assert mx.nd.ones(3).sum().asscalar() == scipy.stats.norm.cdf(9.0) * 3
    """)


KERNELS = """
    import ctypes, os
    from pathlib import Path
    {imports}
    import mxnet as mx
    library = ctypes.CDLL(str(Path(mx.__file__).with_name("libopenblas.so.0")))
    library.openblas_get_corename.restype = ctypes.c_char_p
    print(library.openblas_get_corename().decode(), os.environ.get("OPENBLAS_CORETYPE"))
"""


@pytest.mark.parametrize(
    "imports", ["import trnet", "import trnet.tensor.backend", "import trnet.reproduce"]
)
def test_openblas_uses_what_the_processor_has(imports, run_python, monkeypatch):
    """For a processor that it does not know, it would take the kernels for SSE3."""
    script = KERNELS.format(imports=imports)
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    has_avx2 = " avx2 " in Path("/proc/cpuinfo").read_text()
    kernels, left = run_python(script).split()
    assert (kernels == "Haswell" or not has_avx2) and left == "None"
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Nehalem")
    assert run_python(script).split() == ["Nehalem", "Nehalem"]


def test_layers_work_under_set_np(run_python):
    """A program that chose NumPy semantics gets mx.np arrays, the same values and gradients."""
    run_python("""
        import mxnet as mx
        mx.npx.set_np()

        import numpy as np
        from mxnet import autograd
        from mxnet.gluon import nn
        from tensor.reference import contract, full_weight, regress
        from trnet.layers import TCL, TRL

        rng = np.random.default_rng(0)
        x, in_shape = rng.standard_normal((2, 4, 5, 6)), (4, 5, 6)

        def numpy_result(form, bias, parameters):
            if form is None:
                return contract(x, parameters) + bias
            return regress(x, full_weight(form, parameters)) + bias

        layers = [(None, TCL, dict(rank=(2, 3, 2), use_bias=True))] + [
            (form, TRL, dict(units=3, rank=rank, factorization=form))
            for form, rank in [("tucker", (2, 3, 4, 2)), ("cp", 3), ("tensor_train", (2, 3, 2))]
        ]
        modes = [("fused", False), ("fused", True), ("tensorly", False)]
        for form, layer_type, arguments in layers:
            for implementation, hybridized in modes:
                layer = layer_type(
                    **arguments, in_shape=(0, 0, 0), implementation=implementation, dtype="float64"
                )
                layer.initialize(mx.init.Xavier())
                if hybridized:
                    layer.hybridize()
                data = mx.np.array(x, dtype="float64")
                data.attach_grad()
                with autograd.record():
                    out = layer(data)
                head = rng.standard_normal(out.shape)
                out.backward(mx.np.array(head, dtype="float64"))
                assert type(out) is mx.np.ndarray and layer.in_shape == in_shape

                *factors, bias = layer.collect_params().values()
                assert all(type(p.data()) is mx.np.ndarray for p in (*factors, bias))
                values = [p.data().asnumpy() for p in factors]
                offset = bias.data().asnumpy()
                expected = numpy_result(form, offset, values)
                np.testing.assert_allclose(out.asnumpy(), expected, rtol=1e-10, atol=1e-12)
                # Linear in each factor: the gradient along a direction is the difference.
                for k, p in enumerate(factors):
                    way = rng.standard_normal(p.shape)
                    moved = [v + way if k == j else v for j, v in enumerate(values)]
                    change = numpy_result(form, offset, moved) - expected
                    got = (p.grad().asnumpy() * way).sum()
                    np.testing.assert_allclose(got, (head * change).sum(), rtol=1e-9, atol=1e-12)
                dense = layer.to_dense_weight()
                assert type(dense) is mx.np.ndarray
                flat = head.reshape(2, -1) @ dense.asnumpy()
                np.testing.assert_allclose(data.grad.asnumpy().reshape(2, -1), flat, atol=1e-12)

        dense = nn.Dense(3, in_units=120)
        dense.initialize()
        layer = TRL(3, (4, 5, 6, 3), in_shape=in_shape)
        layer.init_from_dense(dense)
        data = mx.np.array(x, dtype="float32")
        np.testing.assert_allclose(layer(data).asnumpy(), dense(data).asnumpy(), atol=1e-5)
        assert mx.util.is_np_shape() and mx.util.is_np_array()
    """)


class Broken(MetaPathFinder):
    """Lets ``import mxnet`` fail as it does on a machine that lacks something."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def find_spec(self, name: str, path=None, target=None) -> None:
        if name == "mxnet":
            raise self.error


@pytest.mark.parametrize(
    "python, error, needed",
    [
        ((3, 12, 1), AttributeError(NUMPY_BOOL), ["Python", "3.9", "3.11", "3.12.1"]),
        ((3, 8, 18), ModuleNotFoundError("No module named 'mxnet'"), ["Python", "3.9", "3.8.18"]),
        (
            (3, 11, 7),
            OSError("libgomp.so.1: cannot open shared object file: No such file or directory"),
            ["libgomp1", "libgomp.so.1"],
        ),
        ((3, 11, 7), AttributeError(NUMPY_BOOL), ["numpy<1.24"]),
        (
            (3, 11, 7),
            OSError("libcuda.so.1: cannot open shared object file: No such file or directory"),
            ["no NVIDIA driver (libcuda.so.1)", "pip uninstall mxnet-cu112", "'trnet[cpu]'"],
        ),
        (
            (3, 11, 7),
            OSError("libcudnn.so.8: cannot open shared object file: No such file or directory"),
            ["mxnet-cu112 needs NVIDIA's libcudnn.so.8", "pip install 'trnet[cu112]'"],
        ),
        (
            (3, 11, 7),
            OSError("/site-packages/nvidia/cublas/lib/libcublas.so.11: file too short"),
            ["mxnet-cu112 needs NVIDIA's libcublas.so.11", "file too short"],
        ),
        ((3, 11, 7), ModuleNotFoundError("No module named 'mxnet'"), ["mxnet==1.9.1", "pip"]),
    ],
)
def test_a_missing_stack_is_one_line(monkeypatch, python, error, needed):
    monkeypatch.setattr(sys, "version_info", python)
    monkeypatch.setattr(sys, "meta_path", [Broken(error), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "mxnet")
    with pytest.raises(ImportError) as caught:
        runpy.run_path(backend.__file__)
    message = str(caught.value)
    assert type(caught.value).__name__ == "MissingStack" and caught.value.__cause__ is error
    assert "\n" not in message
    assert [words for words in needed if words not in message] == []


@pytest.mark.parametrize("statement", ["from trnet import TRL", "import trnet.layers"])
def test_layers_without_mxnet_say_what_is_missing(run_python, statement):
    said = run_python(f"""
        import sys
        sys.modules["mxnet"] = None
        try:
            {statement}
        except ImportError as error:
            print(type(error).__name__)
    """)
    assert said == "MissingStack\n"


def test_what_an_uninstalled_mxnet_left_is_no_mxnet(run_python):
    """A folder without code, as Python finds it: a namespace package, which has no origin."""
    said = run_python("""
        import sys
        from importlib.machinery import ModuleSpec
        class Left:
            def find_spec(self, name, path=None, target=None):
                if name == "mxnet":
                    spec = ModuleSpec("mxnet", None, is_package=True)
                    spec.submodule_search_locations.append("/nowhere")
                    return spec
        sys.meta_path.insert(0, Left())
        from trnet.before_mxnet import load_openblas
        load_openblas()
        try:
            from trnet import TRL
        except ImportError as error:
            print(type(error).__name__, error)
    """)
    assert said.startswith("MissingStack trnet needs MXNet 1.9.1") and said.count("\n") == 1


def test_trnet_alone_imports_no_mxnet(run_python):
    run_python("""
        import sys
        import trnet
        assert trnet.__version__ and not {"mxnet", "tensorly", "trnet.tensor"} & set(sys.modules)
    """)
