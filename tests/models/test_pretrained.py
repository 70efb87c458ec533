"""Trained weights: what is loaded, how heads start from it, and what is refused."""

import hashlib
from unittest import mock

import mxnet as mx
import numpy as np
import pytest
from gluoncv.model_zoo import get_model, model_store
from mxnet.gluon import nn

from trnet.models import build_network, load_pretrained, rank_by_savings

SHAPE = (3, 64, 64)
CLASSES = 11
FULL = {"type": "trl", "rank": [512, 1, 1, CLASSES]}


def zoo(name: str, classes: int = CLASSES):
    mx.random.seed(5)
    network = get_model(name, pretrained=False, classes=classes)
    network.initialize(mx.init.Xavier())
    network(images())
    return network


def fresh(name: str, head: dict, shape=SHAPE):
    network = build_network(name, head, shape, CLASSES)
    network.infer_shape(mx.nd.zeros((1, *shape)))
    network.initialize(mx.init.Xavier())
    return network


def images(shape=SHAPE) -> mx.nd.NDArray:
    mx.random.seed(7)
    return mx.nd.random.normal(shape=(2, *shape))


@pytest.fixture
def trained(tmp_path):
    """Save a network of GluonCV: its file, and its scores."""

    def save(name: str, classes: int = CLASSES):
        network, path = zoo(name, classes), tmp_path / f"{name}.params"
        network.save_parameters(str(path))
        return str(path), network(images()).asnumpy()

    return save


def close(scores, expected) -> None:
    np.testing.assert_allclose(scores.asnumpy(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet18_v1", "resnet18_v1b", "mobilenetv2_0.25", "vgg11"])
def test_the_whole_network_is_gluoncvs(trained, name):
    path, scores = trained(name)
    network = fresh(name, {"type": "dense"})
    n = 3 if name == "vgg11" else 1
    said = str(load_pretrained(network, name, path, SHAPE, CLASSES))
    assert said == f"{n} of the head's {n} dense layers are trained"
    close(network(images()), scores)


@pytest.mark.parametrize("name, channels", [("resnet18_v1", 512), ("mobilenetv2_0.25", 1280)])
def test_a_trl_at_full_rank_is_the_trained_head(trained, name, channels):
    """Pooling and a dense layer, or a 1×1 convolution, with a bias or without one."""
    path, scores = trained(name)
    network = fresh(name, {"type": "trl", "rank": [channels, 1, 1, CLASSES]})
    said = str(load_pretrained(network, name, path, SHAPE, CLASSES))
    assert said == "the head decomposes the trained layer; its weight is off by 0.00 %"
    close(network(images()), scores)


def test_a_trl_starts_from_a_convolution_that_trnet_saved(tmp_path):
    name, path = "mobilenetv2_0.25", str(tmp_path / "ours.params")
    donor = fresh(name, {"type": "dense"})
    donor.save_parameters(path)
    network = fresh(name, {"type": "trl", "rank": [1280, 1, 1, CLASSES]})
    said = str(load_pretrained(network, name, path, SHAPE, CLASSES))
    assert said == "the head decomposes the trained layer; its weight is off by 0.00 %"
    close(network(images()), donor(images()).asnumpy())
    assert rank_by_savings(name, path, SHAPE, CLASSES, "tucker", 0.5) is not None


def test_a_convolution_that_a_relu_follows_is_not_decomposed(tmp_path):
    name, shape, path = "squeezenet1.1", (3, 224, 224), str(tmp_path / "ours.params")
    fresh(name, {"type": "dense"}, shape).save_parameters(path)
    network = fresh(name, {"type": "trl", "rank": [5, 2, 2, 5]}, shape)
    assert "starts untrained" in str(load_pretrained(network, name, path, shape, CLASSES))


def test_a_trl_at_a_lower_rank_is_near_it(trained):
    path, scores = trained("resnet18_v1")
    errors = []
    for rank in (2, 8, 11):
        network = fresh("resnet18_v1", {"type": "trl", "rank": [rank, 1, 1, rank]})
        load_pretrained(network, "resnet18_v1", path, SHAPE, CLASSES)
        errors.append(np.linalg.norm(network(images()).asnumpy() - scores))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 1e-3 * np.linalg.norm(scores)


def test_dense_layers_of_the_same_shape_are_taken_from_the_last_back(trained):
    path, _ = trained("vgg11")
    head = {"type": "tcl", "rank": [64, 2, 2], "hidden": [4096, 4096]}
    network = fresh("vgg11", head)
    first = network.output[4].weight.data().copy()
    said = str(load_pretrained(network, "vgg11", path, SHAPE, CLASSES))
    assert said == "2 of the head's 3 dense layers are trained"
    arrays = mx.nd.load(path)
    np.testing.assert_array_equal(network.output[4].weight.data().asnumpy(), first.asnumpy())
    second = next(array for array in arrays.values() if array.shape == (4096, 4096))
    for ours, theirs in ((6, second), (8, arrays["output.weight"])):
        expected = theirs.asnumpy()
        np.testing.assert_array_equal(network.output[ours].weight.data().asnumpy(), expected)


@pytest.mark.parametrize(
    "name, head, said",
    [
        ("resnet18_v1", {"type": "trl", "rank": 5, "factorization": "cp"}, "starts untrained"),
        ("squeezenet1.1", {"type": "trl", "rank": [5, 2, 2, 5]}, "starts untrained"),
        ("vgg11", {"type": "trl", "rank": [5, 2, 2, 5]}, "starts untrained"),
        ("resnet18_v1", {"type": "dense", "hidden": [7]}, "0 of the head's 2 dense layers"),
    ],
)
def test_a_head_of_another_form_starts_untrained(tmp_path, name, head, said):
    shape = (3, 224, 224) if name == "squeezenet1.1" else SHAPE
    donor = get_model(name, pretrained=False, classes=CLASSES)
    donor.initialize(mx.init.Xavier())
    donor(images(shape))
    path = str(tmp_path / "donor.params")
    donor.save_parameters(path)
    network = fresh(name, head, shape)
    before = {k: p.data().asnumpy() for k, p in network.output.collect_params().items()}
    assert said in str(load_pretrained(network, name, path, shape, CLASSES))
    for key, parameter in network.output.collect_params().items():
        np.testing.assert_array_equal(parameter.data().asnumpy(), before[key])
    saved = mx.nd.load(path)
    key = next(k for k in saved if k.startswith("features.0."))
    own = network.features._collect_params_with_prefix()
    np.testing.assert_array_equal(own[key].data().asnumpy(), saved[key].asnumpy())


def test_a_head_for_other_classes_starts_untrained(trained):
    """As from ImageNet's 1 000 classes to those of a user."""
    path, _ = trained("resnet18_v1", classes=30)
    network = fresh("resnet18_v1", {"type": "trl", "rank": [20, 1, 1, 9]})
    said = str(load_pretrained(network, "resnet18_v1", path, SHAPE, CLASSES))
    assert said == "the head starts untrained"


@pytest.mark.parametrize("head", [{"type": "dense"}, FULL])
def test_a_baselines_checkpoint_starts_a_network(tmp_path, head):
    baseline = fresh("resnet18_v1", {"type": "dense"})
    path = str(tmp_path / "network.params")
    baseline.save_parameters(path)
    network = fresh("resnet18_v1", head)
    said = str(load_pretrained(network, "resnet18_v1", path, SHAPE, CLASSES))
    assert said.startswith(
        "the head is the file's" if head != FULL else "the head decomposes the trained layer"
    )
    close(network(images()), baseline(images()).asnumpy())


def test_a_small_networks_checkpoint_starts_another_head(tmp_path):
    shape = (1, 28, 28)
    baseline = fresh("small_vgg2", {"type": "dense", "hidden": []}, shape)
    path = str(tmp_path / "network.params")
    baseline.save_parameters(path)
    network = fresh("small_vgg2", {"type": "trl", "rank": [32, 7, 7, CLASSES]}, shape)
    load_pretrained(network, "small_vgg2", path, shape, CLASSES)
    close(network(images(shape)), baseline(images(shape)).asnumpy())


def test_gluoncvs_store(tmp_path, monkeypatch):
    """A file in the store's folder with the checksum that GluonCV knows counts as downloaded."""
    monkeypatch.setenv("MXNET_HOME", str(tmp_path))
    donor = zoo("resnet18_v1", classes=1000)
    path = tmp_path / "donor.params"
    donor.save_parameters(str(path))
    digest = hashlib.sha1(path.read_bytes()).hexdigest()
    monkeypatch.setitem(model_store._model_sha1, "resnet18_v1", digest)
    (tmp_path / "models").mkdir()
    path.rename(tmp_path / "models" / f"resnet18_v1-{digest[:8]}.params")
    network = build_network("resnet18_v1", {"type": "dense"}, SHAPE, 1000)
    network.infer_shape(images())
    network.initialize()
    load_pretrained(network, "resnet18_v1", True, SHAPE, 1000)
    close(network(images()), donor(images()).asnumpy())


@pytest.mark.parametrize("name", ["resnet18_v1", "small_vgg2"])
def test_a_store_without_the_network_is_named(refusal, monkeypatch, tmp_path, name):
    monkeypatch.setenv("MXNET_HOME", str(tmp_path))
    monkeypatch.setenv("MXNET_GLUON_REPO", "http://127.0.0.1:9/")
    shape = SHAPE if name == "resnet18_v1" else (1, 28, 28)
    network = fresh(name, {"type": "dense"}, shape)
    load = lambda: load_pretrained(network, name, True, shape, CLASSES)  # noqa: E731
    refusal(load, "got True: GluonCV's store", name, "use a .params file")


def test_a_store_that_fails_without_a_word_is_named(refusal, monkeypatch):
    network = fresh("resnet18_v1", {"type": "dense"})
    monkeypatch.setattr("gluoncv.model_zoo.get_model", mock.Mock(side_effect=EOFError))
    load = lambda: load_pretrained(network, "resnet18_v1", True, SHAPE, CLASSES)  # noqa: E731
    refusal(load, "gives no weights of resnet18_v1 (EOFError)")


def test_a_plugins_trained_head_starts_no_other(tmp_path):
    shape, path = (1, 28, 28), tmp_path / "network.params"
    other = fresh("small_vgg2", {"type": "dense"}, shape)
    other(images(shape))
    arrays = {
        f"features.{n}": p.data() for n, p in other.features._collect_params_with_prefix().items()
    }
    mx.nd.save(str(path), {**arrays, "output.fc.weight": mx.nd.zeros((CLASSES, 5))})
    network = fresh("small_vgg2", {"type": "dense"}, shape)
    start = load_pretrained(network, "small_vgg2", str(path), shape, CLASSES)
    assert not start.is_whole
    close(network.features(images(shape)), other.features(images(shape)).asnumpy())


def test_what_is_refused_is_named(refusal, tmp_path, trained):
    network = fresh("resnet18_v1", FULL)

    def refuses(path, *said):
        refusal(lambda: load_pretrained(network, "resnet18_v1", str(path), SHAPE, CLASSES), *said)

    refuses(tmp_path / "none.params", "none.params", "there is no such file")
    (tmp_path / "text.params").write_text("not a parameter file")
    refuses(tmp_path / "text.params", "expected a complete .params file")
    mx.nd.save(str(tmp_path / "list.params"), [mx.nd.zeros(3)])
    refuses(tmp_path / "list.params", "expected a complete .params file", "have no names")

    path, _ = trained("resnet18_v1")
    arrays = mx.nd.load(path)
    before = network.features.collect_params()
    before = {k: p.data().asnumpy() for k, p in before.items()}

    def changed(**changes):
        kept = {k: v for k, v in {**arrays, **changes}.items() if v is not None}
        mx.nd.save(str(tmp_path / "changed.params"), kept)
        return tmp_path / "changed.params"

    refuses(changed(**{"features.0.weight": None}), "features.0.weight is missing")
    refuses(changed(**{"features.0.weight": mx.nd.zeros((64, 1, 7, 7))}), "(64, 1, 7, 7)", "(64, 3")
    refuses(changed(**{"features.99.weight": mx.nd.zeros(3)}), "got an unknown features.99.weight")
    other, _ = trained("resnet34_v1")
    refuses(other, "got an unknown", "more")
    for key, parameter in network.features.collect_params().items():
        np.testing.assert_array_equal(parameter.data().asnumpy(), before[key])
    assert isinstance(network.features.features[0], nn.Conv2D)


@pytest.mark.parametrize("name, layers", [("mobilenetv3_small", 2), ("squeezenet1.1", 1)])
def test_own_heads_with_activations_are_copied(tmp_path, name, layers):
    shape = (3, 224, 224) if name == "squeezenet1.1" else SHAPE
    donor = get_model(name, pretrained=False, classes=CLASSES)
    donor.initialize(mx.init.Xavier())
    scores = donor(images(shape)).asnumpy()
    path = str(tmp_path / "donor.params")
    donor.save_parameters(path)
    network = fresh(name, {"type": "dense"}, shape)
    said = str(load_pretrained(network, name, path, shape, CLASSES))
    assert said == f"{layers} of the head's {layers} dense layers are trained"
    close(network(images(shape)), scores)


def test_hidden_layers_are_copied_though_the_classes_are_others(trained):
    path, _ = trained("vgg11", classes=30)
    network = fresh("vgg11", {"type": "dense"})
    said = str(load_pretrained(network, "vgg11", path, SHAPE, CLASSES))
    assert said == "2 of the head's 3 dense layers are trained"


@pytest.mark.parametrize("head", [FULL, {"type": "dense"}])
def test_a_dense_layer_after_a_tcl_starts_nothing_else(tmp_path, head):
    donor = fresh("resnet18_v1", {"type": "tcl", "rank": [512, 1, 1], "hidden": []})
    path = str(tmp_path / "network.params")
    donor.save_parameters(path)
    said = str(load_pretrained(fresh("resnet18_v1", head), "resnet18_v1", path, SHAPE, CLASSES))
    assert said in ("the head starts untrained", "0 of the head's 1 dense layers are trained")


def test_savings_of_a_pooled_dense_layer_are_of_rank_r_1_1_r(trained):
    path, _ = trained("resnet18_v1")
    rank = rank_by_savings("resnet18_v1", path, SHAPE, CLASSES, "tucker", 0.5)
    most = 0.5 * 512 * CLASSES
    first, *spatial, last = rank
    assert spatial == [1, 1] and first == last
    sizes = [512 * r + 2 * 2 + r * r + CLASSES * r for r in (first, first + 1)]
    assert sizes[0] <= most < sizes[1]
    assert rank_by_savings("resnet18_v1", path, SHAPE, CLASSES, "cp", 0.5) is None


def test_savings_of_several_dense_layers_choose_nothing(trained):
    path, _ = trained("vgg11")
    assert rank_by_savings("vgg11", path, SHAPE, CLASSES, "tucker", 0.5) is None


def test_savings_that_cannot_be_had_are_named(tmp_path, trained):
    path, _ = trained("resnet18_v1")
    arguments = (SHAPE, CLASSES, "tucker")
    with pytest.raises(ValueError, match=f"^savings of 0.99, of the weights in '{path}': expected"):
        rank_by_savings("resnet18_v1", path, *arguments, 0.99)
    with pytest.raises(ValueError, match=r"there is no such file$"):
        rank_by_savings("resnet18_v1", str(tmp_path / "none.params"), *arguments, 0.5)
    decomposed = str(tmp_path / "trl.params")
    fresh("resnet18_v1", FULL).save_parameters(decomposed)
    with pytest.raises(ValueError, match=r"got another one; give the rank itself$"):
        rank_by_savings("resnet18_v1", decomposed, *arguments, 0.5)
