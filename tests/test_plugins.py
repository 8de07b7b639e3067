"""mmreason.plugins: what a user may name, what the user's files may import, and one clear line when it fails."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmreason.errors import PluginError
from mmreason.plugins import load_symbol, nearest

GROUP = "mmreason.rewards"
BUILTINS = {"accuracy": "the accuracy", "format": "the format"}


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The test runs in a new folder; the module path and the loaded modules are put back afterwards."""
    monkeypatch.chdir(tmp_path)
    # As for an installed command, whose module path does not hold the current folder.
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def message(spec: str) -> str:
    with pytest.raises(PluginError) as caught:
        load_symbol(spec, BUILTINS, GROUP)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def install(folder: Path, distribution: str, entry: str) -> None:
    """What pip leaves of a package with one entry point."""
    info = folder / f"{distribution}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{entry}\n")
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def test_builtin() -> None:
    assert load_symbol("accuracy", BUILTINS, GROUP) == "the accuracy"


def test_unknown_name_suggests_the_nearest() -> None:
    assert "did you mean 'accuracy'?" in message("acuracy")
    assert "known: accuracy, format" in message("zzz")


def test_nearest_of_nothing_is_nothing() -> None:
    assert nearest("x", []) == ""


def test_file_and_attribute(tmp_path: Path) -> None:
    (tmp_path / "my_reward.py").write_text("def fn(sample, text):\n    return 1.0\n")
    by_name = load_symbol("my_reward.py:fn", BUILTINS, GROUP)
    assert by_name(None, "") == 1.0
    assert load_symbol(f"{tmp_path}/my_reward.py:fn", BUILTINS, GROUP) is by_name


def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "reward.py").write_text(f"WHO = {folder!r}\n")
    assert [load_symbol(f"{folder}/reward.py:WHO", BUILTINS, GROUP) for folder in ("a", "b")] == ["a", "b"]


def test_file_may_define_dataclasses(tmp_path: Path) -> None:
    # dataclasses look their module up in sys.modules while it is being imported.
    future = "from __future__ import annotations\n"
    (tmp_path / "data.py").write_text(future + "import dataclasses\n@dataclasses.dataclass\nclass R:\n    a: int = 1\n")
    assert load_symbol("data.py:R", BUILTINS, GROUP)().a == 1


def test_file_imports_its_neighbours_and_the_users_own_rewards_package(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "rewards").mkdir(parents=True)
    (project / "rewards" / "__init__.py").write_text("OWNER = 'user'\n")
    (project / "helper.py").write_text("VALUE = 3\n")
    (project / "my_reward.py").write_text(
        "import rewards\nimport helper\nimport mmreason.errors\nFOUND = (rewards.OWNER, helper.VALUE)\n"
    )
    assert load_symbol("project/my_reward.py:FOUND", BUILTINS, GROUP) == ("user", 3)


def test_the_users_folder_is_searched_last_afterwards(tmp_path: Path) -> None:
    (tmp_path / "my_reward.py").write_text("def fn():\n    import late\n    return late.VALUE\n")
    (tmp_path / "late.py").write_text("VALUE = 4\n")
    function = load_symbol("my_reward.py:fn", BUILTINS, GROUP)
    assert sys.path[-1] == str(tmp_path)
    assert sys.path[0] != str(tmp_path)
    assert function() == 4


def test_module_of_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "scores.py").write_text("def fn():\n    return 5\n")
    assert load_symbol("own_package.scores:fn", BUILTINS, GROUP)() == 5


def test_installed_module() -> None:
    assert load_symbol("math:sqrt", BUILTINS, GROUP)(9) == 3


def test_missing_attribute_lists_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "my_reward.py").write_text("def score():\n    pass\ndef _hidden():\n    pass\n")
    assert message("my_reward.py:fn").endswith("my_reward.py has no attribute 'fn'; it defines score")
    (tmp_path / "empty.py").write_text("")
    assert message("empty.py:fn").endswith("it defines nothing callable")


def test_missing_file_says_where_relative_paths_start(tmp_path: Path) -> None:
    assert str(tmp_path) in message("nowhere.py:fn")


def test_file_without_attribute() -> None:
    assert message("my_reward.py") == "my_reward.py: names a file; name what is in it too, as my_reward.py:attr"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("def broken(:\n", "SyntaxError: invalid syntax"),
        ("import no_such_module_here\n", "ModuleNotFoundError: No module named 'no_such_module_here'"),
        ("import sys\nsys.exit(0)\n", "SystemExit: 0"),
        ("raise ValueError('two\\nlines')\n", "ValueError: two lines"),
    ],
)
def test_a_plugin_that_fails_to_import(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "bad.py").write_text(text)
    for _ in range(2):  # the second time must not find a half-imported module
        assert reason in message("bad.py:fn")
    assert reason in message("bad:fn")


def test_a_mended_plugin_loads(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("1 / 0\n")
    message("bad.py:fn")
    (tmp_path / "bad.py").write_text("fn = 'mended'\n")
    assert load_symbol("bad.py:fn", BUILTINS, GROUP) == "mended"


def test_missing_module() -> None:
    assert "no_such_package.mod: importing this plug-in failed with ModuleNotFoundError" in message(
        "no_such_package.mod:fn"
    )


def test_entry_point(tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text("def fn():\n    return 6\n")
    install(tmp_path, "theirs", "their_reward = theirs:fn")
    assert load_symbol("their_reward", BUILTINS, GROUP)() == 6
    assert "did you mean 'their_reward'?" in message("their_rewrd")


def test_builtin_wins_over_an_entry_point(tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text("fn = 'theirs'\n")
    install(tmp_path, "theirs", "accuracy = theirs:fn")
    assert load_symbol("accuracy", BUILTINS, GROUP) == "the accuracy"


def test_entry_point_of_two_packages_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        install(tmp_path, name, f"same = {name}:fn")
    assert re.search(r"2 installed packages offer it", message("same"))


def test_broken_entry_point(tmp_path: Path) -> None:
    install(tmp_path, "broken", "broken = no_such_module_here:fn")
    assert "broken (no_such_module_here:fn): importing this plug-in failed" in message("broken")
