"""`mmreason init`: a config with every key, that is one."""

import re
from pathlib import Path

import pytest

from mmreason.cli import main
from mmreason.config import leaf_keys, load_config
from mmreason.errors import ConfigError
from mmreason.starting import init


@pytest.mark.parametrize("method", ["grpo", "sft", "dpo"])
def test_what_is_written_is_a_config_that_says_what_was_asked(method: str, tmp_path: Path) -> None:
    file = tmp_path / "deep" / "mine.yaml"
    given = ["--method", method, "--model", "m: #1", "--data", "a.jsonl", "--data", "b.jsonl"]
    assert main(["init", str(file), *given]) == 0
    config = load_config(file)
    assert config.train.method == method
    assert config.model.path == "m: #1"
    assert [source.path for source in config.data.train] == ["a.jsonl", "b.jsonl"]
    assert bool(config.rewards) == (method == "grpo")


def test_every_key_stands_in_it_with_its_default(tmp_path: Path) -> None:
    text = init(tmp_path / "run.yaml").read_text()
    for key in leaf_keys():
        if "[]" not in key:
            assert re.search(rf"^ *#?{key.rpartition('.')[2]}:", text, re.MULTILINE), key


def test_what_is_commented_out_is_the_default(tmp_path: Path) -> None:
    """Taking every # away from a key changes nothing."""
    file = init(tmp_path / "run.yaml", method="sft")
    text = file.read_text()
    bare = re.sub(r"^( *)#(?=[a-z_]+:)", r"\1", text, flags=re.MULTILINE)
    (tmp_path / "bare.yaml").write_text(bare)
    assert text.count("\n#") + text.count(" #") - bare.count("\n#") - bare.count(" #") > 60
    assert load_config(tmp_path / "bare.yaml") == load_config(file)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        init(tmp_path / "run.yaml")
    assert (tmp_path / "run.yaml").read_text() == "mine"
    with pytest.raises(ConfigError, match="cannot be written"):
        init("/proc/nowhere/run.yaml")
