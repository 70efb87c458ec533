"""The suites in configs/: what their heads count, by hand, and what their tables show."""

import json
from pathlib import Path

import pytest

from trnet import config, experiment, suite
from trnet.config import TCLHead, TRLHead

ROOT = Path(__file__).parent.parent
SUITES = sorted(path.name for path in (ROOT / "configs").iterdir())

# Weights of the head by hand, and the savings of the published table; see results/published.yaml.
VGG = 512 * 7 * 7 * 4096 + 4096 * 4096 + 4096 * 1000
ALEXNET = 256 * 6 * 6 * 4096 + 4096 * 4096 + 4096 * 1000
RESNET = 2048 * 1000
IMAGENET = {
    "vgg19": (VGG, 0.00),
    "vgg19_tcl": (
        (512 * 384 + 2 * 7 * 5) + 384 * 5 * 5 * 3072 + 3072 * 3072 + 3072 * 1000,
        65.87,
    ),
    "alexnet": (ALEXNET, 0.00),
    "alexnet_tcl": (
        (256 * 185 + 2 * 6 * 5) + 185 * 5 * 5 * 2960 + 2960 * 2960 + 2960 * 1000,
        56.57,
    ),
    "resnet101": (RESNET, 0.00),
    **{
        f"resnet101_trl_{r}": (r * r + 2048 * r + 7 + 7 + 1000 * r, savings)
        for r, savings in ((200, 68.28), (150, 76.58), (100, 84.63), (50, 92.44))
    },
}


def load(name: str) -> dict:
    return {c.name: c for c in config.load_suite(ROOT / "configs" / name)}


@pytest.fixture(scope="module")
def imagenet():
    return load("imagenet")


def test_imagenet_has_the_published_experiments(imagenet):
    assert set(imagenet) == set(IMAGENET)
    assert [VGG, ALEXNET, RESNET] == [123_633_664, 58_621_952, 2_048_000]


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_counts(imagenet, name):
    weights, savings = IMAGENET[name]
    counted = experiment.count(imagenet[name]).weights
    assert counted == weights
    base = IMAGENET[imagenet[name].baseline or name][0]
    assert round(100 * (1 - counted / base), 2) == savings


@pytest.mark.parametrize("name", SUITES)
def test_every_head_saves_what_its_name_promises(name):
    """Every experiment can be built, and has a smaller head than its baseline's."""
    configs = load(name)
    weights = {c.name: experiment.count(c).weights for c in configs.values()}
    for c in configs.values():
        assert c.baseline is None or weights[c.name] < 0.8 * weights[c.baseline]


def test_an_experiment_trains_as_its_baseline_does(imagenet):
    for name in SUITES:
        configs = load(name)
        for c in configs.values():
            if c.baseline:
                base = configs[c.baseline]
                assert (c.train, c.dataset) == (base.train, base.dataset)
                assert c.model.backbone == base.model.backbone


@pytest.mark.parametrize("name", SUITES)
def test_names_say_what_the_files_hold(name):
    for path in (ROOT / "configs" / name).glob("[!_]*.yaml"):
        c = config.load(path)
        assert c.name == path.stem and c.suite == name
        if isinstance(c.model.head, (TCLHead, TRLHead)):
            rank = c.model.head.rank
            first = rank[0] if isinstance(rank, list) else rank
            assert c.name.endswith(f"_{first}") or c.name in ("vgg19_tcl", "alexnet_tcl")


@pytest.mark.parametrize("name", ["mnist", "imagenet"])
def test_the_counts_in_results_are_those_of_the_networks(name, tmp_path):
    configs = list(load(name).values())
    noted = json.loads((ROOT / "results" / name / "parameters.json").read_text())
    suite.head_weights(configs, tmp_path)
    assert noted == json.loads((tmp_path / name / "parameters.json").read_text())


def test_imagenets_table_needs_no_run_and_no_mxnet(tabulated):
    """Published and computed columns, as the talk's tables; measured says that it is not."""
    shown = tabulated("imagenet")
    lines = {line.split()[0]: line.split()[1:] for line in shown.splitlines() if line}
    missing = ["not", "measured"]
    assert lines["resnet101_trl_150"] == ["76.6", "76.58", "76.0", *missing, "92.9", *missing]
    assert lines["vgg19_tcl"] == ["65.9", "65.87", "(-0.6)", *missing, *missing]
    assert lines["alexnet_tcl"] == ["56.6", "56.57", "(+0.5)", *missing, *missing]
    assert "derived by us" in " ".join(shown.split())
    for name, (_, savings) in IMAGENET.items():
        assert f"{savings:.2f}" in lines[name]
    assert max(map(len, shown.splitlines())) <= 80
