"""Plugins: modules that a config imports, and what they register."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

from trnet import config, experiment
from trnet.errors import ConfigError

TEXT = """
name: tiny
plugins: [plain_head]
dataset: {name: mnist}
model: {backbone: small_vgg2, head: HEAD}
train: {epochs: 1, batch_size: 50, learning_rate: 0.1, schedule: {type: cosine}}
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load a config with some head."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "extension"))

    def write_and_load(head: str, text: str = TEXT) -> config.Config:
        path = tmp_path / "tiny.yaml"
        path.write_text(text.replace("HEAD", head))
        return config.load(path)

    return write_and_load


def test_a_config_reaches_a_head_from_a_plugin(load, tmp_path):
    loaded = load("{type: plain, width: 7}")
    expected = {"type": "plain", "width": 7, "bias": True, "act": "relu", "lr_mult": 1.0}
    assert loaded.model.head.model_dump() == expected
    assert experiment.count(loaded).weights == 32 * 7 + 7 * 10
    (tmp_path / "again.yaml").write_text(config.dump(loaded))
    again = config.load(tmp_path / "again.yaml")
    assert again == loaded and again.hash == loaded.hash
    assert load("{type: plain, width: 8}").hash != loaded.hash


def test_a_null_that_is_not_the_default_is_dumped(load, tmp_path):
    loaded = load("{type: plain, width: 7, act: null}")
    (tmp_path / "again.yaml").write_text(config.dump(loaded))
    again = config.load(tmp_path / "again.yaml")
    assert again.model.head.act is None and again.hash == loaded.hash


def test_a_process_that_is_sent_a_config_imports_its_plugins(load):
    sent = pickle.dumps(load("{type: plain, width: 7}"))
    del sys.modules["plain_head"]
    received = pickle.loads(sent)
    assert "plain_head" in sys.modules and received.model.head.width == 7


@pytest.mark.parametrize(
    "head, said",
    [
        ("{type: plain}", "model.head.width: is missing"),
        ("{type: plain, width: wide}", "model.head.width: expected an integer, got 'wide'"),
        ("{type: plain, widht: 7}", "model.head.widht: unknown key; did you mean width?"),
        ("{type: plane}", "model.head.type: expected one of 'dense', 'tcl', 'trl'"),
        ("{width: 7}", "model.head.type: is missing"),
        ("plain", "model.head: expected a mapping of keys to values, got 'plain'"),
    ],
)
def test_a_wrong_key_of_its_head_is_one_line(load, head, said):
    with pytest.raises(ConfigError) as caught:
        load(head)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("plugins", ["[no_such_module]", "no_such_module", "[3]"])
def test_a_plugin_that_is_not_there_is_one_line(load, plugins):
    text = TEXT.replace("[plain_head]", plugins)
    with pytest.raises(ConfigError, match=r"tiny\.yaml: plugins") as caught:
        load("{type: dense}", text)
    assert "expected" in str(caught.value) and "\n" not in str(caught.value)


def test_plugins_are_not_in_the_hash(load):
    without = TEXT.replace("plugins: [plain_head]\n", "")
    loaded, plain = load("{type: dense}"), load("{type: dense}", without)
    assert loaded.hash == plain.hash and loaded.model_hash == plain.model_hash
    assert "plugins:" in config.dump(loaded) and "plugins:" not in config.dump(plain)
