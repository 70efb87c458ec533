"""Configs: what loads, how files and overrides merge, and what a broken one says."""

from pathlib import Path

import pytest

from trnet import cli, config
from trnet.errors import ConfigError

ROOT = Path(__file__).parents[2]

GOOD = {
    "name": "name: tiny",
    "dataset": "dataset: {name: mnist}",
    "model": "model: {backbone: small_vgg2, head: {type: trl, rank: [2, 2, 2, 2]}}",
    "train": (
        "train: {epochs: 2, batch_size: 50, learning_rate: 0.1,"
        " schedule: {type: cosine, warmup_epochs: 0.5}}"
    ),
}


def text(**changes: str) -> str:
    """A whole config, with some of its lines replaced; an empty one is left out."""
    return "\n".join(line for line in {**GOOD, **changes}.values() if line) + "\n"


def head(words: str) -> str:
    return text(model=f"model: {{backbone: small_vgg2, head: {words}}}")


def recipe(**changes: str) -> str:
    keys = {"epochs": "2", "batch_size": "50", "learning_rate": "0.1"}
    keys = {**keys, "schedule": "{type: cosine}", **changes}
    return text(train="train: {" + ", ".join(f"{k}: {v}" for k, v in keys.items() if v) + "}")


# What the file holds, and what the one line has to name: the key, and the value or the remedy.
BROKEN = {
    "empty file": ("", ["mapping"]),
    "a list": ("- 1\n- 2\n", ["mapping"]),
    "a word": ("hello\n", ["'hello'", "mapping"]),
    "not YAML": ("name: [1, 2\n", ["line", "YAML"]),
    "a tab": ("name:\n\t- x\n", ["line", "YAML"]),
    "a key twice": (text() + "name: again\n", ["line", "YAML", "duplicate"]),
    "not UTF-8": (b"name: \xff\xfe\n", ["UTF-8"]),
    "unknown key": (text(name="name: a\nlearning_rate: 1"), ["learning_rate", "unknown", "train"]),
    "a typo": (text(name="nmae: a"), ["nmae", "mean name"]),
    "nested typo": (recipe(epoch="3"), ["train.epoch", "epochs"]),
    "head's typo": (head("{type: trl, rnk: [1, 1, 1, 1]}"), ["model.head.rnk", "mean rank"]),
    "another head's key": (head("{type: dense, rank: [1]}"), ["model.head.rank", "hidden"]),
    "schedule's typo": (recipe(schedule="{type: cosine, warmup: 1}"), ["train.schedule.warmup"]),
    "nothing to tune": (
        text() + "tune: {learning_rate: [], weight_decay: [0.0], epochs: 2, holdout: 0.1}\n",
        ["tune.learning_rate", "1 item"],
    ),
    "a typo in tune": (
        text() + "tune: {learning_rates: [0.1], weight_decay: [0.0], epochs: 2, holdout: 0.1}\n",
        ["tune.learning_rates", "mean learning_rate"],
    ),
    "a pair twice": (
        text()
        + "tune: {learning_rate: [0.1, 0.1], weight_decay: [0.0], epochs: 2, holdout: 0.1}\n",
        ["tune.learning_rate", "once"],
    ),
    "held out twice": (
        text(dataset="dataset: {name: mnist, holdout: 0.2}")
        + "tune: {learning_rate: [0.1], weight_decay: [0.0], epochs: 2, holdout: 0.1}\n",
        ["dataset.holdout", "tune.holdout"],
    ),
    "pooling for CP": (
        head("{type: trl, factorization: cp, rank: 3, pooling: true}"),
        ["model.head.pooling", "tucker"],
    ),
    "all held out": (text(dataset="dataset: {name: mnist, holdout: 1.0}"), ["dataset.holdout"]),
    "no sample": (text(dataset="dataset: {name: mnist, samples: 0}"), ["dataset.samples"]),
    "sure dropout": (head("{type: trl, rank: [1, 1, 1, 1], dropout: 1.0}"), ["model.head.dropout"]),
    "a path for a suite": (text() + "suite: ../mnist\n", ["suite", "'../mnist'", "names"]),
    "no name": (text(name=""), ["name", "missing"]),
    "no data set": (text(dataset=""), ["dataset", "missing"]),
    "no model": (text(model=""), ["model", "missing"]),
    "no head": (text(model="model: {backbone: small_vgg2}"), ["model.head", "missing"]),
    "no type of head": (head("{rank: [1, 1, 1, 1]}"), ["model.head.type", "missing"]),
    "no schedule": (recipe(schedule=""), ["train.schedule", "missing"]),
    "no epochs": (recipe(epochs=""), ["train.epochs", "missing"]),
    "name with a slash": (text(name="name: a/b"), ["name", "a/b", "letters"]),
    "name of dots": (text(name="name: .."), ["name", "letters"]),
    "a number as name": (text(name="name: 3"), ["name", "3", "string"]),
    "unknown head": (head("{type: mlp}"), ["model.head.type", "mlp", "'trl'"]),
    "unknown schedule": (recipe(schedule="{type: poly}"), ["train.schedule.type", "poly", "step"]),
    "unknown backbone": (
        text(model="model: {backbone: vgg99, head: {type: dense}}"),
        ["model.backbone", "vgg99", "small_vgg2"],
    ),
    "unknown data set": (text(dataset="dataset: {name: mnits}"), ["dataset.name", "mnits"]),
    "classes of a set that has its own": (
        text(dataset="dataset: {name: mnist, classes: 7}"),
        ["dataset.classes", "7", "mnist"],
    ),
    "a size of a set that has its own": (
        text(dataset="dataset: {name: cifar10, size: 64}"),
        ["dataset.size", "64", "cifar10"],
    ),
    "a single class": (text(dataset="dataset: {name: synthetic, classes: 1}"), ["dataset.classes"]),
    "images too small for a network of ours": (
        text(
            dataset="dataset: {name: synthetic, size: 2}",
            model="model: {backbone: small_alexnet, head: {type: dense}}",
        ),
        ["model.backbone", "(3, 2, 2)"],
    ),
    "no classes": (text(dataset="dataset: {name: synthetic, classes: 0}"), ["dataset.classes"]),
    "a network whose head is not understood": (
        text(
            dataset="dataset: {name: synthetic, size: 64}",
            model="model: {backbone: darknet53, head: {type: dense}}",
        ),
        ["model.backbone", "darknet53", "LeakyReLU"],
    ),
    "images too small for the network": (
        text(
            dataset="dataset: {name: synthetic, size: 32}",
            model="model: {backbone: resnet18_v1, head: {type: dense}}",
        ),
        ["model.backbone", "resnet18_v1", "one pixel to pool"],
    ),
    "weights of a number": (
        text(model="model: {backbone: small_vgg2, pretrained: 3, head: {type: dense}}"),
        ["model.pretrained", "3"],
    ),
    "a type nobody computes in": (recipe(dtype="int8"), ["train.dtype", "int8", "float16"]),
    "a word as data set": (text(dataset="dataset: mnist"), ["dataset", "mapping"]),
    "unknown factorization": (
        head("{type: trl, rank: 3, factorization: svd}"),
        ["model.head.factorization", "svd", "'cp'"],
    ),
    "rank of zero": (head("{type: trl, rank: [0, 1, 1, 1]}"), ["model.head.rank", "integers ≥ 1"]),
    "negative rank": (head("{type: trl, rank: -1, factorization: cp}"), ["model.head.rank", "-1"]),
    "rank of words": (head("{type: trl, rank: [a, b]}"), ["model.head.rank", "integers"]),
    "fraction above one": (head("{type: trl, rank: 1.5}"), ["model.head.rank", "1.5", "(0, 1]"]),
    "a bool as rank": (head("{type: trl, rank: true}"), ["model.head.rank", "True"]),
    "an integer as Tucker rank": (head("{type: trl, rank: 3}"), ["model.head.rank", "tucker"]),
    "a list as CP rank": (
        head("{type: trl, rank: [1, 2, 3], factorization: cp}"),
        ["model.head.rank", "integer"],
    ),
    "rank above its mode": (
        head("{type: trl, rank: [2, 8, 2, 2]}"),
        ["model.head", "got 8", "mode 2", "7"],
    ),
    "rank above the classes": (
        head("{type: trl, rank: [2, 2, 2, 11]}"),
        ["model.head", "got 11", "output", "10"],
    ),
    "too few ranks": (head("{type: trl, rank: [2, 2]}"), ["model.head", "4", "[2, 2]"]),
    "TCL with a rank too many": (head("{type: tcl, rank: [2, 2, 2, 2]}"), ["model.head", "4"]),
    "TCL above its mode": (head("{type: tcl, rank: [33, 7, 7]}"), ["33", "mode 1", "32"]),
    "tensor train above its cut": (
        head("{type: trl, rank: [33, 2, 2], factorization: tensor_train}"),
        ["model.head", "got 33", "32"],
    ),
    "no epoch": (recipe(epochs="0"), ["train.epochs", "expected at least 1", "got 0"]),
    "less than none": (recipe(epochs="-1"), ["train.epochs", "expected an integer ≥ 0, got -1"]),
    "half an epoch": (recipe(epochs="2.5"), ["train.epochs", "expected an integer, got 2.5"]),
    "yes as epochs": (recipe(epochs="true"), ["train.epochs", "True", "integer"]),
    "a word as rate": (
        recipe(learning_rate="fast"),
        ["train.learning_rate", "expected a number, got 'fast'"],
    ),
    "negative rate": (recipe(learning_rate="-0.1"), ["train.learning_rate", "-0.1"]),
    "infinite rate": (recipe(learning_rate=".inf"), ["train.learning_rate", "inf"]),
    "momentum of one": (
        recipe(momentum="1.0"),
        ["train.momentum", "expected a number < 1, got 1.0"],
    ),
    "negative decay": (recipe(weight_decay="-1"), ["train.weight_decay", "-1"]),
    "smoothing of two": (recipe(label_smoothing="2"), ["train.label_smoothing", "2"]),
    "a bound of zero": (recipe(clip_gradient="0"), ["train.clip_gradient", "> 0", "0"]),
    "a lasso on no TRL": (
        recipe(lasso="0.1").replace("type: trl, rank: [2, 2, 2, 2]", "type: dense"),
        ["train.lasso", "expected 0 for a head that is no TRL", "0.1"],
    ),
    "a lasso on lengths": (
        recipe(lasso="0.1").replace("2]}", "2], weight_norm: true}"),
        ["train.lasso", "expected 0 with model.head.weight_norm: true", "0.1"],
    ),
    "a negative lasso": (recipe(lasso="-1"), ["train.lasso", "-1"]),
    "half a batch": (recipe(accumulate="0.5"), ["train.accumulate", "0.5"]),
    "frozen by a number": (recipe(freeze="3"), ["train.freeze", "'backbone'", "3"]),
    "a head that learns backwards": (
        head("{type: dense, hidden: [], lr_mult: -1}"),
        ["model.head.lr_mult", "-1"],
    ),
    "milestones descend": (
        recipe(epochs="9", schedule="{type: step, milestones: [5, 3]}"),
        ["milestones", "[5, 3]", "ascending"],
    ),
    "negative seed": (text(name="name: a\nseed: -1"), ["seed", "-1"]),
    "a base that is not there": (text(name="extends: _no.yaml\nname: a"), ["extends", "_no.yaml"]),
    "a base that is a number": (text(name="extends: 3\nname: a"), ["extends", "3"]),
    "extends itself": (text(name="extends: broken.yaml\nname: a"), ["extends", "broken.yaml"]),
    "unknown baseline": (text(name="name: a\nbaseline: b"), ["baseline", "'b'"]),
    "no files of the data": (
        text(dataset="dataset: {name: fashion_mnist, root: nowhere}"),
        ["dataset.root", "nowhere", "dataset-fashion-mnist"],
    ),
    "nearly extends": (
        text(name="extend: _base.yaml\nname: a"),
        ["extend: unknown key; did you mean extends?"],
    ),
    "a key that is a number": (text(name="name: a\n1: 2"), ["expected a key that is a string"]),
    "a word that its tag lacks": (recipe(epochs="!!bool maybe"), ["not valid YAML", "'maybe'"]),
    "more classes than labels": (
        text(dataset="dataset: {name: synthetic, classes: 3000000000}"),
        ["dataset.classes", "≤ 16777216"],
    ),
    "a rank that is no size": (
        head("{type: trl, rank: 999999999999, factorization: cp}"),
        ["model.head", "an integer ≥ 1 and below 2³¹", "got 999999999999"],
    ),
    "weights without a name": (
        text(model='model: {backbone: small_vgg2, pretrained: "", head: {type: dense}}'),
        ["model.pretrained: expected the name of a .params file", "got ''"],
    ),
    "weights of a mapping": (
        text(model="model: {backbone: small_vgg2, pretrained: {a: b}, head: {type: dense}}"),
        ["model.pretrained: expected the name of a .params file", "got {'a': 'b'}"],
    ),
    "frozen by a mapping": (recipe(freeze="{a: 1}"), ["train.freeze: expected 'backbone', or"]),
    "nothing to drop": (
        head("{type: dense, hidden: [], dropout: 0.9}"),
        ["model.head: ", "dropout: expected 0 without hidden layers, got 0.9"],
    ),
    "classes of a TCL": (
        text(
            model="model: {backbone: small_vgg2, pretrained: a.params, "
            "fit: {weigh_classes: true}, head: {type: tcl, rank: [2, 2, 2]}}"
        ),
        ["model.fit.weigh_classes: expected false for a TCL"],
    ),
    "a root for embedded data": (
        text(dataset="dataset: {name: mnist, root: here}"),
        ["dataset.root", "here"],
    ),
}


def refusal(capsys, *arguments: str) -> str:
    """What the command says on its way out with code 2: one line and no traceback."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    printed = capsys.readouterr()
    assert stopped.value.code == 2, printed
    assert printed.out == ""
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1, printed.err
    return printed.err


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_config_gets_one_line_and_leaves_nothing(kind, tmp_path, capsys):
    content, named = BROKEN[kind]
    path = tmp_path / "broken.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    runs = tmp_path / "runs"
    line = refusal(capsys, "train", str(path), "--runs", str(runs))
    for word in named:
        assert word in line
    assert not runs.exists()


def test_there_are_fifty_kinds():
    assert len(BROKEN) >= 50


@pytest.mark.parametrize(
    "override, named",
    [
        ("train.epochs", ["train.epochs", "key=value"]),
        ("=3", ["key=value"]),
        ("train..epochs=3", ["key=value"]),
        ("train.epochs=[", ["--set", "YAML"]),
        ("train.epoch=3", ["--set", "epochs"]),
        ("train.epochs=-3", ["--set", "train.epochs", "-3"]),
        ("train.epochs=0", ["--set", "train.epochs: expected at least 1"]),
        ("name.sub=3", ["name", "string"]),
        ("name=2024-13-45", ["--set", "YAML"]),
        ("baseline=nope", ["baseline", "'nope'"]),
        ("suite=../up", ["suite", "letters"]),
    ],
)
def test_a_broken_override_gets_one_line(override, named, tmp_path, capsys):
    path = tmp_path / "good.yaml"
    path.write_text(text())
    runs = tmp_path / "runs"
    arguments = (str(path), "--set", override, "--runs", str(runs))
    line = refusal(capsys, "train", *arguments)
    assert all(word in line for word in named), line
    assert not runs.exists()


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["train", "nowhere.yaml"], ["nowhere.yaml", "no such file"]),
        (["train", "configs/mnist/vgg.yaml", "--devices", "tpu"], ["--devices", "tpu", "cpu:0,1"]),
        (["train", "configs/mnist/vgg.yaml", "--devices", "gpu:99"], ["--devices", "GPUs"]),
        (["train", "configs/mnist/vgg.yaml", "--devices", "cpu:0,0"], ["--devices", "once"]),
        (["train", "configs/mnist"], ["configs/mnist", "directory"]),
        (["train", "configs/mnist/vgg.yaml", "--seed", "x"], ["seed", "'x'", "integer"]),
        (["train", "configs/mnist/vgg.yaml", "--runs", "setup.py"], ["setup.py", "directory"]),
        (["evaluate", "nowhere"], ["nowhere", "no such file"]),
        (["tabulate", "nowhere"], ["nowhere", "no such folder"]),
        (["tabulate", "scripts"], ["scripts", "folder of configs", "found no *.yaml"]),
        (["reproduce", "configs/mnist", "--seeds", "0,x"], ["--seeds", "0,x"]),
        (["reproduce", "configs/mnist", "--seeds", "0,0"], ["--seeds", "0,0"]),
        (["reproduce", "configs/mnist", "--seeds", "99999999999"], ["seed", "2147483647"]),
        (["reproduce", "configs/mnist", "--jobs", "0"], ["--jobs", "0", "1"]),
    ],
)
def test_a_broken_command_gets_one_line(arguments, named, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    line = refusal(capsys, *arguments)
    assert all(word in line for word in named), line


def test_the_line_names_the_file_that_the_key_stands_in(tmp_path):
    (tmp_path / "_base.yaml").write_text(recipe(momentum="7"))
    (tmp_path / "exp.yaml").write_text("extends: _base.yaml\nname: exp\n")
    with pytest.raises(ConfigError, match=r"_base\.yaml: train\.momentum"):
        config.load(tmp_path / "exp.yaml")


def test_a_config_extends_its_base_key_by_key(tmp_path):
    (tmp_path / "_base.yaml").write_text(text(name="name: base"))
    (tmp_path / "exp.yaml").write_text("extends: _base.yaml\nname: exp\ntrain: {epochs: 7}\n")
    loaded = config.load(tmp_path / "exp.yaml", ["train.batch_size=25", "seed=3"])
    assert (loaded.name, loaded.suite, loaded.seed) == ("exp", tmp_path.name, 3)
    assert (loaded.train.epochs, loaded.train.batch_size, loaded.train.momentum) == (7, 25, 0.9)


def test_another_type_of_head_stands_in_the_bases_place_whole(tmp_path):
    (tmp_path / "_base.yaml").write_text(text())
    model = "model: {head: {type: dense, hidden: [5]}}"
    (tmp_path / "exp.yaml").write_text(f"extends: _base.yaml\n{model}\n")
    assert config.load(tmp_path / "exp.yaml").model.head == config.DenseHead(
        type="dense", hidden=[5]
    )


def test_exponents_without_a_point_are_numbers(tmp_path):
    (tmp_path / "exp.yaml").write_text(recipe(learning_rate="1e-2"))
    assert config.load(tmp_path / "exp.yaml").train.learning_rate == 0.01


def test_what_is_dumped_loads_again(tmp_path):
    loaded = config.load(ROOT / "configs/mnist/vgg_trl_8.yaml", ["seed=5"])
    (tmp_path / "config.yaml").write_text(config.dump(loaded))
    again = config.load(tmp_path / "config.yaml")
    assert again == loaded and again.hash == loaded.hash


def test_what_is_cut_of_a_schedule_is_not_in_the_hash(tmp_path):
    """It is not trained; the config keeps it, for a run of more epochs."""

    def load(epochs: int, schedule: str) -> config.Config:
        (tmp_path / "exp.yaml").write_text(recipe(epochs=str(epochs), schedule=schedule))
        return config.load(tmp_path / "exp.yaml")

    long, short = (load(2, f"{{type: cosine, warmup_epochs: {n}}}") for n in (5, 1))
    assert long.hash == short.hash and long.train.schedule.warmup_epochs == 5
    assert long.train.cuts == ["train.schedule.warmup_epochs: 5 is cut to 1, half of the 2 epochs"]
    assert short.train.cuts == []
    first, other = (load(4, f"{{type: step, milestones: {m}}}") for m in ("[3, 6]", "[3, 9]"))
    assert first.hash == other.hash != load(4, "{type: step, milestones: [2, 6]}").hash
    assert first.train.cuts == ["train.schedule.milestones: [6] are not reached in 4 epochs"]
    assert (
        load(7, "{type: step, milestones: [3, 6]}").hash
        != load(7, "{type: step, milestones: [3, 9]}").hash
    )


def test_the_hash_follows_what_decides_the_outcome():
    path = ROOT / "configs/mnist/vgg_trl_8.yaml"
    loaded = config.load(path)
    assert config.load(path, ["seed=5", "name=x"]).hash == loaded.hash
    assert config.load(path, ["train.epochs=5"]).hash != loaded.hash
    assert config.load(path, ["train.epochs=5"]).model_hash == loaded.model_hash
    assert config.load(path, ["model.head.rank=[8,4,4,9]"]).model_hash != loaded.model_hash


@pytest.mark.parametrize(
    "suite",
    sorted(
        {
            str(p.parent.relative_to(ROOT / "configs"))
            for p in (ROOT / "configs").rglob("[!_]*.yaml")
        }
    ),
)
def test_every_suite_loads_with_baselines_first(suite):
    configs = config.load_suite(ROOT / "configs" / suite)
    is_baseline = [c.baseline is None for c in configs]
    assert is_baseline[0] and is_baseline == sorted(is_baseline, reverse=True)
    assert all(c.suite == suite for c in configs)


def test_hidden_files_are_no_configs(tmp_path):
    """Such as an editor's lock, and what macOS writes beside a file."""
    (tmp_path / "a.yaml").write_text(text())
    (tmp_path / "._a.yaml").write_bytes(b"\x00\xff")
    (tmp_path / ".#a.yaml").symlink_to("nobody@nowhere")
    assert len(config.load_suite(tmp_path)) == 1


def test_a_name_twice_in_a_suite_is_refused(tmp_path):
    for file in ("a.yaml", "b.yaml"):
        (tmp_path / file).write_text(text())
    with pytest.raises(ConfigError, match=r"b\.yaml: name: expected .* got 'tiny'"):
        config.load_suite(tmp_path)


def test_a_config_of_another_suite_is_refused(tmp_path):
    """As a run folder's is: its suite would take the place of the folder's in every path."""
    (tmp_path / "a.yaml").write_text(text(name="name: a"))
    (tmp_path / "b.yaml").write_text(text(name="name: b\nsuite: mnist"))
    said = rf"b\.yaml: suite: expected '{tmp_path.name}', as for the others .* got 'mnist'"
    with pytest.raises(ConfigError, match=said):
        config.load_suite(tmp_path)


def test_a_baseline_has_none_itself(tmp_path):
    (tmp_path / "a.yaml").write_text(text(name="name: a\nbaseline: a"))
    with pytest.raises(ConfigError, match=r"a\.yaml: baseline: expected a baseline .* got 'a'"):
        config.load_suite(tmp_path)


def test_a_suite_is_named_from_its_configs_folder_on(tmp_path):
    for place, suite in (("configs/a/b", "a/b"), ("configs/a", "a"), ("mine/b", "b")):
        folder = tmp_path / place
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tiny.yaml").write_text(text())
        assert config.load(folder / "tiny.yaml").suite == suite


def test_a_folder_of_suites_names_them(tmp_path):
    (tmp_path / "first").mkdir()
    (tmp_path / "first/tiny.yaml").write_text(text())
    with pytest.raises(ConfigError, match=r"found no \*\.yaml; try .*first$"):
        config.load_suite(tmp_path)


def test_what_a_run_does_not_depend_on_is_not_in_its_hash(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(text())
    plain = config.load(path)
    path.write_text(
        text() + "tune: {learning_rate: [0.1], weight_decay: [0.0], epochs: 2, holdout: 0.1}\n"
    )
    assert config.load(path).hash == plain.hash
    path.write_text(text(dataset="dataset: {name: mnist, samples: 300}"))
    assert config.load(path).hash != plain.hash


@pytest.mark.parametrize(
    "text, said",
    [
        ("rank: (8, 4, 4, 10)", r"model.head.rank: expected .*; YAML has lists in square brackets"),
        ("{type: tcl, rank: (8, 4)}", r"model.head.4\): unknown key; YAML has lists in square br"),
    ],
)
def test_lists_in_round_brackets_are_explained(text, said, tmp_path):
    head = text if text.startswith("{") else f"\n    type: trl\n    {text}"
    path = tmp_path / "round.yaml"
    path.write_text(
        f"name: round\ndataset: {{name: mnist}}\nmodel:\n  backbone: small_vgg2\n  head: {head}\n"
        "train: {epochs: 1, batch_size: 50, learning_rate: 0.05, schedule: {type: cosine}}\n"
    )
    with pytest.raises(ConfigError, match=said):
        config.load(path)


PLAIN = (
    "name: g\ndataset: {name: mnist}\nmodel: {backbone: small_vgg2, head: {type: dense}}\n"
    "train: {epochs: 1, batch_size: 50, learning_rate: 0.05, schedule: {type: cosine}}\n"
)


@pytest.mark.parametrize(
    "text, said",
    [
        (
            PLAIN + "a: &a [x, x]\n" + "b: &b [" + "*a, " * 99 + "]\nc: [" + "*b, " * 99 + "]",
            "10000",
        ),
        (PLAIN + "a: &a [*a]\n", "at most 10000 values"),
        (PLAIN + "a: &a {k: *a}\n", "at most 10000 values"),
        (PLAIN.replace("epochs: 1", f"epochs: {'9' * 400}"), "train.epochs: expected an integer"),
        (PLAIN.replace("0.05", "1e300"), "train.learning_rate: expected a number"),
        (PLAIN.replace("name: mnist", "name: synthetic, size: 60000"), "dataset.size"),
    ],
)
def test_what_is_endless_or_too_large_is_refused_at_once(text, said, tmp_path):
    path = tmp_path / "large.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"^[^\n]*large.yaml: [^\n]*{said}[^\n]*$"):
        config.load(path)


def test_the_rank_that_spectra_choose_is_of_their_network(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(text())
    head = "model.head={type: trl, rank: {savings: 0.9}}"
    of = [config.load(path, [head, f"model.pretrained={name}.params"]) for name in ("a", "b")]
    untrained = config.load(path, [head])
    assert len({c.model_hash for c in (*of, untrained)}) == 3
    exact = "model.head={type: trl, rank: [4, 2, 2, 5]}"
    of = [config.load(path, [exact, f"model.pretrained={name}.params"]) for name in ("a", "b")]
    assert of[0].model_hash == of[1].model_hash


@pytest.mark.parametrize(
    "override, said",
    [
        ("dataset.repeat=3000000000", "expected an integer < 2147483648, got 3000000000"),
        (
            "model.head={type: trl, rank: x}",
            r"expected integers ≥ 1 as the factorization has them, "
            r"\{savings: a share below 1\}, a float in",
        ),
    ],
)
def test_limits_and_braces_are_printed_as_one_writes_them(override, said, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(text())
    with pytest.raises(ConfigError, match=said):
        config.load(path, [override])
