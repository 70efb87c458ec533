"""What is exported runs without trnet, in ONNX Runtime and in MXNet, and computes the same."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path

import mxnet as mx
import numpy as np
import onnx
import onnxruntime
import pytest
from mxnet import gluon
from mxnet.gluon import nn
from onnx import helper

from trnet import TCL, TRL, cli, experiment, fold, inference
from trnet.config import Config, load
from trnet.errors import UserError
from trnet.export import export_onnx, export_symbol, load_exported
from trnet.models import build_network
from trnet.result import read_result

SHAPE = (1, 28, 28)
HEADS = {
    "dense": {"type": "dense", "hidden": [16]},
    "tcl": {"type": "tcl", "rank": [6, 4, 4], "hidden": [16]},
    "tucker": {"type": "trl", "rank": [8, 4, 4, 10]},
    "pooled": {"type": "trl", "rank": [5, 1, 1, 5], "pooling": True},
    "cp": {"type": "trl", "factorization": "cp", "rank": 12},
    "tensor_train": {"type": "trl", "factorization": "tensor_train", "rank": [6, 6, 6]},
    "norm": {"type": "trl", "rank": [8, 4, 4, 10], "norm": True, "weight_norm": True},
}
BACKBONES = ("small_alexnet", "slim_alexnet", "small_vgg2", "small_vgg4", "slim_resnet")
BACKBONES += ("small_resnet8", "small_resnet20")


def trained(backbone: str, head: dict, shape=SHAPE, classes: int = 10):
    """A network whose outputs depend on every layer, statistics of normalisation included."""
    network = build_network(backbone, head, shape, classes)
    network.initialize(mx.init.MSRAPrelu())
    with mx.autograd.train_mode():
        network(mx.nd.random.normal(shape=(2, *shape)))
    for parameter in network.collect_params(".*gamma|.*beta|.*running").values():
        parameter.set_data(mx.nd.random.uniform(0.5, 1.5, shape=parameter.shape))
    return network


def scores(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"data": images})[0]


def close(ours, network, images: np.ndarray) -> None:
    expected = network(mx.nd.array(images)).asnumpy()
    assert np.abs(ours - expected).max() <= 1e-4 * np.abs(expected).max()


def pictures(batch: int, shape=SHAPE) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((batch, *shape), dtype="float32")


@pytest.mark.parametrize("folds", [False, True], ids=["factors", "folded"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_onnx_computes_the_same(backbone, head, folds, tmp_path):
    network = trained(backbone, HEADS[head])
    path = export_onnx(fold(network) if folds else network, tmp_path / "net.onnx", SHAPE)
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    for batch in (1, 5):
        close(scores(path, pictures(batch)), network, pictures(batch))
    graph = onnx.load(str(path)).graph
    assert [given.name for given in graph.input] == ["data"]
    sizes = [d.dim_param or d.dim_value for d in graph.output[0].type.tensor_type.shape.dim]
    assert sizes == ["batch", 10]


@pytest.mark.parametrize(
    "backbone, size, head",
    [
        ("alexnet", 224, {"type": "tcl", "rank": [20, 3, 3], "hidden": [32]}),
        ("vgg19", 64, {"type": "trl", "factorization": "cp", "rank": 9}),
        ("resnet101_v1", 64, {"type": "trl", "rank": [20, 1, 1, 5]}),
        ("mobilenetv2_1.0", 64, {"type": "trl", "rank": [20, 2, 2, 5]}),
        ("densenet121", 224, {"type": "trl", "factorization": "tensor_train", "rank": [9, 8, 5]}),
    ],
)
def test_onnx_of_networks_in_gluoncv(backbone, size, head, tmp_path):
    shape = (3, size, size)
    network = build_network(backbone, head, shape, 5)
    network.initialize(mx.init.MSRAPrelu())
    network(mx.nd.zeros((1, *shape)))
    path = export_onnx(network, tmp_path / "net.onnx", shape)
    close(scores(path, pictures(2, shape)), network, pictures(2, shape))


def test_onnx_of_a_layer_and_of_blocks_of_ones_own(tmp_path):
    class Own(nn.HybridSequential):
        def hybrid_forward(self, F, x):
            return F.softmax(super().hybrid_forward(F, x))

    network = Own()
    network.add(TCL((4, 3), (6, 5)), TRL(3, (2, 2, 2), (4, 3)))
    network.initialize()
    path = export_onnx(network, tmp_path / "net.onnx", (6, 5))
    close(scores(path, pictures(7, (6, 5))), network, pictures(7, (6, 5)))


@pytest.mark.parametrize("folds", [False, True], ids=["factors", "folded"])
@pytest.mark.parametrize(
    "form, rank", [("tucker", (4, 3, 3, 2, 3)), ("cp", 5), ("tensor_train", (4, 6, 5, 3))]
)
def test_onnx_of_outputs_that_are_tensors(form, rank, folds, tmp_path):
    network = nn.HybridSequential()
    network.add(nn.Conv2D(6, 3, in_channels=1), TRL((3, 4), rank, (6, 5, 4), form))
    network.initialize(mx.init.Xavier())
    path, images = tmp_path / "network.onnx", pictures(3, (1, 7, 6))
    export_onnx(fold(network) if folds else network, path, (1, 7, 6))
    ours = scores(path, images)
    assert ours.shape == (3, 3, 4)
    close(ours, network, images)


def test_onnx_of_a_layer_that_is_used_twice_and_of_products_of_the_data(tmp_path):
    class Twice(gluon.HybridBlock):
        def __init__(self):
            super().__init__()
            self.tcl = TCL((4, 5), (4, 5))
            self.trl = TRL(3, (3, 3), (4, 5), "tensor_train")

        def hybrid_forward(self, F, x):
            x = self.tcl(self.tcl(x))
            first, second = F.split(x, num_outputs=2, axis=1)
            x = F.concat(F.batch_dot(first, second, transpose_b=True).sum(axis=(1, 2)), dim=0)
            return F.broadcast_mul(self.trl(F.concat(first, second, dim=1)), x.reshape((-1, 1)))

    network = Twice()
    network.initialize()
    path = export_onnx(network, tmp_path / "net.onnx", (4, 5))
    close(scores(path, pictures(7, (4, 5))), network, pictures(7, (4, 5)))


def test_what_onnx_cannot_express_leaves_the_earlier_file(tmp_path):
    network = nn.HybridSequential()
    network.add(nn.HybridLambda(lambda F, x: F.linalg.gelqf(x)[0]))
    path = tmp_path / "net.onnx"
    path.write_text("an earlier one")
    with pytest.raises(ValueError, match=r"^ONNX: [^\n]*gelqf[^\n]*$"):
        export_onnx(network, path, (3, 4))
    assert [file.read_text() for file in tmp_path.iterdir()] == ["an earlier one"]


def test_an_onnx_file_that_computes_something_else_is_refused(tmp_path, monkeypatch):
    network = trained("small_vgg2", HEADS["tucker"])
    monkeypatch.setattr("trnet.export.TOLERANCE", -1.0)
    with pytest.raises(ValueError, match="expected ONNX Runtime to compute the same as MXNet"):
        export_onnx(network, tmp_path / "net.onnx", SHAPE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("export", [export_onnx, export_symbol])
def test_a_network_without_values_is_refused(export, tmp_path):
    network = build_network("small_vgg2", HEADS["tucker"], SHAPE, 10)
    with pytest.raises(ValueError, match="has no values yet"):
        export(network, tmp_path / "net", SHAPE)


@pytest.mark.parametrize("folds", [False, True], ids=["factors", "folded"])
@pytest.mark.parametrize("head", HEADS)
def test_a_symbol_loads_without_trnet(head, folds, tmp_path, run_python):
    network = trained("small_vgg2", HEADS[head])
    file = export_symbol(fold(network) if folds else network, tmp_path / "net", SHAPE)
    assert file == tmp_path / "net-symbol.json"
    images = pictures(3)
    np.save(tmp_path / "images.npy", images)
    run_python(
        f"""
        import sys, mxnet as mx, numpy as np
        images = mx.nd.array(np.load({str(tmp_path / "images.npy")!r}))
        symbol, arguments, states = mx.model.load_checkpoint({str(tmp_path / "net")!r}, 0)
        module = mx.mod.Module(symbol, label_names=None)
        module.bind([("data", images.shape)], for_training=False)
        module.init_params()  # from the symbol's own initializers
        module.set_params(arguments, states)
        module.forward(mx.io.DataBatch([images]))
        np.save({str(tmp_path / "scores.npy")!r}, module.get_outputs()[0].asnumpy())
        assert "trnet" not in sys.modules
        """
    )
    close(np.load(tmp_path / "scores.npy"), network, images)
    block, _ = load_exported(file)
    close(block(mx.nd.array(images)).asnumpy(), network, images)


@pytest.mark.parametrize("head", ["tcl", "tucker", "cp", "tensor_train"])
@pytest.mark.filterwarnings("ignore:WARNING. This will be deprecated")
def test_a_folded_network_is_quantised(head):
    from mxnet.contrib.quantization import quantize_net

    network = trained("small_vgg2", HEADS[head])
    images = pictures(50)
    calibration = mx.io.NDArrayIter(images, batch_size=25)
    quantised = quantize_net(
        fold(network), quantized_dtype="auto", calib_data=calibration, calib_mode="naive"
    )
    expected = network(mx.nd.array(images)).asnumpy()
    error = quantised(mx.nd.array(images)).asnumpy() - expected
    assert np.linalg.norm(error) < 0.1 * np.linalg.norm(expected)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run folder of a network that was trained for an epoch."""
    config = Config.model_validate(
        {
            "name": "small",
            "suite": "toy",
            "dataset": {"name": "mnist", "samples": 100},
            "model": {"backbone": "small_vgg2", "head": HEADS["tucker"]},
            "train": {
                "epochs": 1,
                "batch_size": 20,
                "learning_rate": 0.05,
                "schedule": {"type": "cosine"},
            },
        }
    )
    runs = tmp_path_factory.mktemp("runs")
    experiment.train(config, None, runs, [mx.cpu()], show=False)
    return runs / "toy/small/seed0"


@pytest.mark.parametrize("folds", [False, True], ids=["factors", "folded"])
@pytest.mark.parametrize("form", ["onnx", "symbol"])
def test_an_exported_run_scores_as_its_checkpoint(form, folds, run, tmp_path):
    file = inference.export(run, "latest", form, folds, tmp_path / "net.onnx")
    config, epoch, exported = inference.score(file, "latest", [mx.cpu()])
    expected_config, _, expected = inference.score(run, "latest", [mx.cpu()])
    assert (config, epoch) == (expected_config, None)
    assert (exported.top1, exported.top5) == (expected.top1, expected.top5)
    assert exported.loss == pytest.approx(expected.loss, rel=1e-4)


def test_an_export_goes_into_the_run_folder(run):
    assert inference.export(run, "best", "onnx", True, None) == run / "small.onnx"
    assert inference.export(run, "best", "symbol", True, None) == run / "small-symbol.json"


def test_the_command_folds_unless_it_is_told_not_to(run, tmp_path):
    sizes = {}
    for name, options in (("folded", []), ("factors", ["--no-fold", "--card"])):
        file = tmp_path / f"{name}.onnx"
        cli.main(["export", str(run), "--output", str(file), *options])
        sizes[name] = file.stat().st_size
    assert sizes["factors"] < 0.7 * sizes["folded"]
    assert (tmp_path / "factors.md").is_file() and not (tmp_path / "folded.md").exists()


@pytest.mark.parametrize("form", ["onnx", "symbol"])
def test_a_card_says_what_a_file_is_and_how_to_make_it_again(form, run, tmp_path):
    file = inference.export(run, "latest", form, True, tmp_path / "net.onnx")
    path = inference.write_card(run, "latest", file)
    text, result = path.read_text(), read_result(run)
    weights = tmp_path / ("net.onnx" if form == "onnx" else "net.onnx-0000.params")
    hits, digest = round(1000 * result["top1"]), hashlib.sha256(weights.read_bytes()).hexdigest()
    low, high = proportion(hits, 1000)
    assert path == tmp_path / "net.md" and digest in text
    assert f"{hits / 10:.2f} % ({low:.2f} to {high:.2f})" in text
    assert "small_vgg2, TRL (8, 4, 4, 10)" in text and "1 692 weights" in text
    (tmp_path / "small.yaml").write_text(re.search(r"```yaml\n(.*?)```", text, re.S).group(1))
    alone = load(run / "config.yaml").model_copy(update={"baseline": None})
    assert load(tmp_path / "small.yaml") == alone


def proportion(hits: int, count: int) -> tuple[float, float]:
    """Wilson's interval, in percent: Wilson (1927), equation 4."""
    z, share = 1.959964, hits / count
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return 100 * (centre - half), 100 * (centre + half)


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("missing.onnx", None, "there is no such file"),
        ("damaged.onnx", b"\x08\x07rubbish", "expected an ONNX file"),
        ("alone-symbol.json", b"{}", "expected its parameters"),
        ("config.yaml", b"name: small", "expected a run folder"),
    ],
)
def test_a_file_that_is_no_export_is_refused(name, content, said, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"^[^\n]*{name}: {said}[^\n]*$"):
        inference.score(tmp_path / name, "latest", [mx.cpu()])


@pytest.mark.parametrize(
    "form, damaged",
    [("onnx", "net.onnx"), ("symbol", "net-symbol.json"), ("symbol", "net-0000.params")],
)
@pytest.mark.parametrize("with_checksum", [True, False])
def test_a_damaged_export_is_refused(form, damaged, with_checksum, run, tmp_path):
    """Where its checksum is beside it, any changed bit; else what has no complete form."""
    output = tmp_path / ("net.onnx" if form == "onnx" else "net")
    file = inference.export(run, "latest", form, True, output)
    content = bytearray((tmp_path / damaged).read_bytes())
    if with_checksum:
        content[len(content) // 2] ^= 1
    else:
        (tmp_path / f"{damaged}.sha256").unlink()
        del content[len(content) // 2 :]
    (tmp_path / damaged).write_bytes(content)
    said = rf"{damaged}: is damaged" if with_checksum else rf"{file.name}: expected an? \w+"
    with pytest.raises(UserError, match=rf"^[^\n]*{said}[^\n]*$"):
        inference.score(file, "latest", [mx.cpu()])


def test_a_network_with_two_inputs_is_refused(tmp_path):
    given = [helper.make_tensor_value_info(name, 1, [1, 2]) for name in ("a", "b", "c")]
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["c"])], "sum", given[:2], given[2:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    onnx.save(model, tmp_path / "two.onnx")
    with pytest.raises(
        UserError, match=r"^[^\n]*two\.onnx: expected a network with one input, got 2$"
    ):
        inference.score(tmp_path / "two.onnx", "latest", [mx.cpu()])


def without_weights(graph: dict) -> None:
    convolution = next(node for node in graph["nodes"] if node["op"] == "Convolution")
    convolution["inputs"] = convolution["inputs"][:1]


def with_a_bias_that_is_not_there(graph: dict) -> None:
    convolutions = [node for node in graph["nodes"] if node["op"] == "Convolution"]
    del convolutions[1]["attrs"]["no_bias"]


def without_images(graph: dict) -> None:
    convolution = next(node for node in graph["nodes"] if node["op"] == "Convolution")
    del convolution["inputs"][0]


@pytest.mark.parametrize("damage", [without_weights, with_a_bias_that_is_not_there, without_images])
def test_a_symbol_that_crashes_mxnet_is_refused(damage, run, tmp_path):
    """Operators without some of their inputs, from where no checksum says so."""
    file = inference.export(run, "latest", "symbol", True, tmp_path / "net")
    (tmp_path / "net-symbol.json.sha256").unlink()
    graph = json.loads(file.read_text())
    damage(graph)
    file.write_text(json.dumps(graph))
    with pytest.raises(UserError, match=r"^[^\n]*net-symbol\.json: expected a symbol: [^\n]*$"):
        inference.score(file, "latest", [mx.cpu()])


def test_the_checksum_is_that_of_sha256sum(run, tmp_path):
    inference.export(run, "latest", "symbol", True, tmp_path / "net")
    sums = sorted(path.name for path in tmp_path.glob("*.sha256"))
    assert sums == ["net-0000.params.sha256", "net-symbol.json.sha256"]
    done = subprocess.run(["sha256sum", "--check", *sums], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0 and done.stdout.count(b": OK") == 2


def test_a_file_of_others_has_no_config(tmp_path):
    path = export_onnx(trained("small_vgg2", HEADS["cp"]), tmp_path / "net.onnx", SHAPE)
    with pytest.raises(UserError, match="expected a file that `trnet export` wrote"):
        inference.score(path, "latest", [mx.cpu()])


@pytest.mark.parametrize("export", [export_onnx, export_symbol])
def test_a_folder_that_is_not_there_is_named(export, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder") as refused:
        export(trained("small_vgg2", HEADS["cp"]), tmp_path / "nowhere/net", SHAPE)
    assert refused.value.filename == str(tmp_path / "nowhere")
