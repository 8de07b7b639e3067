"""Built-ins, plug-ins by file, module and entry point, both signatures, options."""

import inspect
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from mmreason.config import RewardConfig
from mmreason.errors import ConfigError, PluginError, RewardError
from mmreason.rewards import FACTS, OPTION_CHECKS, REWARDS, bind, check_rewards, describe, load_reward
from mmreason.rewards.base import keep_mask, lift, one_line, without_tensors
from mmreason.types import Rollout, Sample, Score
from tests.unit.rewards.helpers import answered, sample

PLUGIN = """
from mmreason.types import Score

def length(sample, text, *, limit: int, unit="chars"):
    return min(1.0, len(text) / limit)

def ranked(sample, rollouts):
    return [Score(total=float(index)) for index, _ in enumerate(rollouts)]

value = 3
"""


def test_importing_rewards_is_light() -> None:
    """Also of our own modules only those that every reward needs: a reward's module comes with its name."""
    check = (
        "import sys, mmreason.rewards as r; assert 'iou' in r.REWARDS and len(r.REWARDS) == len(list(r.REWARDS)) > 40; "
        "print([m for m in ('torch', 'numpy', 'asyncio') if m in sys.modules], "
        "sorted(m.removeprefix('mmreason.rewards.') for m in sys.modules if m.startswith('mmreason.rewards.')))"
    )
    shown = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[] ['base', 'foreign']"


@pytest.mark.parametrize(
    ("table", "given", "returned"),
    [
        (REWARDS, ["sample", "rollouts"], list[Score]),
        (OPTION_CHECKS, ["options"], Iterator[str]),
        (FACTS, ["options"], dict[str, str]),
    ],
    ids=["rewards", "option checks", "facts"],
)
def test_every_row_of_a_table_leads_to_a_function_of_its_kind(
    table: Mapping[str, Callable[..., Any]], given: list[str], returned: Any
) -> None:
    """The tables hold names of functions, which no type checker follows."""
    assert set(table) <= set(REWARDS)
    for name, function in table.items():
        assert list(inspect.signature(function).parameters)[: len(given)] == given, name
        assert get_type_hints(inspect.unwrap(function))["return"] == returned, name


def test_describe_has_every_reward_with_a_line_and_its_options() -> None:
    infos = {info.name: info for info in describe()}
    assert set(infos) == set(REWARDS) >= {"accuracy", "format", "iou"}
    assert infos["iou"].options["variant"] == "'plain'"
    assert all(info.help.strip() for info in infos.values())


def test_all_option_mistakes_come_at_once() -> None:
    config = RewardConfig(name="iou", options={"variant": "vlmr", "pwer": 2, "threshold": "high"})
    with pytest.raises(ConfigError) as caught:
        load_reward(config)
    assert str(caught.value).splitlines() == [
        "reward iou: option variant: got 'vlmr', expected one of 'plain', 'vlmr1', 'plus_one'",
        "reward iou: unknown option 'pwer'; did you mean 'power'?",
        "reward iou: option threshold: got 'high', expected float or None",
    ]


@pytest.mark.parametrize("options", [{"power": 2}, {"threshold": None}, {"frame": "unit", "media_index": 1}])
def test_good_options_pass(options: dict[str, Any]) -> None:
    (score,) = load_reward(RewardConfig(name="iou", options=options))(sample("A", "mcq"), answered("A"))
    assert score.error is None


@pytest.mark.parametrize("pattern", ["(", "*", 3])
def test_a_pattern_that_is_none_is_refused_when_the_reward_is_loaded(pattern: Any) -> None:
    with pytest.raises(ConfigError, match=r"option pattern: got .* expected a regular expression that Python can"):
        bind("format", {"pattern": pattern})


def test_rewards_are_checked_all_at_once_and_early(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    good = [RewardConfig(name="accuracy"), RewardConfig(name=f"{tmp_path / 'mine.py'}:ranked")]
    check_rewards(good)
    bad = [RewardConfig(name="acuracy"), RewardConfig(name="iou", options={"pwer": 1}), RewardConfig(name="none.py:f")]
    with pytest.raises(ConfigError) as caught:
        check_rewards([*good, *bad])
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["acuracy", "reward iou", "none.py"]


def test_the_example_for_contributors_works_on_texts(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[3] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = textwrap.dedent(guide.split("```python\n")[1].split("```")[0])
    imports = "from collections.abc import Sequence\nfrom mmreason.types import Rollout, Sample, Score\n\n"
    (tmp_path / "guide.py").write_text(imports + code)
    reward = bind(f"{tmp_path / 'guide.py'}:brevity", {"limit": 3})
    texts = [Rollout(text="one two three"), Rollout(text="one two three four")]
    assert [score.total for score in reward(sample(), texts)] == [1.0, 0.0]


def test_unknown_reward_names_the_nearest() -> None:
    with pytest.raises(PluginError, match="did you mean 'accuracy'"):
        bind("acuracy", {})


def test_file_plugin(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN)
    scores = bind(f"{file}:length", {"limit": 100})(sample(), [Rollout(text="x" * 25), Rollout(text="x" * 500)])
    assert [score.total for score in scores] == [0.25, 1.0]
    with pytest.raises(ConfigError, match="option 'limit' is required"):
        bind(f"{file}:length", {})
    with pytest.raises(ConfigError, match="option limit: got 'long', expected int"):
        bind(f"{file}:length", {"limit": "long"})
    with pytest.raises(ConfigError, match="unknown option 'limit'; it has none"):
        bind(f"{file}:ranked", {"limit": 3})
    with pytest.raises(PluginError, match="is int, expected a function"):
        bind(f"{file}:value", {})


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on sys.path with a module and an installed distribution that offers an entry point."""
    (tmp_path / "my_rewards_pkg.py").write_text(PLUGIN)
    info = tmp_path / "my_rewards-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-rewards\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mmreason.rewards]\nranked_entry = my_rewards_pkg:ranked\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("my_rewards_pkg", None)


@pytest.mark.parametrize("name", ["my_rewards_pkg:ranked", "ranked_entry"])
def test_module_and_entry_point(importable: Path, name: str) -> None:
    assert [score.total for score in bind(name, {})(sample(), answered("a", "b"))] == [0.0, 1.0]


def test_the_users_own_rewards_package_is_theirs(tmp_path: Path) -> None:
    """In a folder with a package `rewards`, both theirs and ours load, and neither shadows the other."""
    package = tmp_path / "rewards"
    package.mkdir()
    (package / "__init__.py").write_text("WHOSE = 'theirs'\n")
    (package / "mine.py").write_text(PLUGIN)
    (tmp_path / "format.py").write_text("raise RuntimeError('not ours to import')\n")
    program = (
        "import rewards, mmreason.rewards; "
        "print(rewards.WHOSE, callable(mmreason.rewards.bind('rewards.mine:ranked', {})), "
        "{'accuracy', 'format', 'iou'} <= set(mmreason.rewards.REWARDS))"
    )
    shown = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["theirs", "True", "True"]


def group_reward(s: Sample, rollouts: Any) -> list[Score]:
    return [Score(total=9.0) for _ in rollouts]


def text_reward(s: Sample, rollout: str, parts: bool = False) -> Any:
    return {"a": 1, "b": 0.5} if parts else True


def test_the_second_parameters_name_decides_the_signature() -> None:
    assert lift(group_reward) is group_reward
    lifted = lift(text_reward)
    assert lifted is not text_reward
    assert lifted(sample(), answered("x")) == [Score(total=1.0)]
    assert lifted(sample(), answered("x"), parts=True) == [Score(total=1.5, parts={"a": 1, "b": 0.5})]


def test_what_a_text_function_may_return() -> None:
    def one(value: Any) -> Score:
        return lift(lambda sample, text: value)(sample(), answered("x"))[0]

    assert one(None) == Score(total=None)
    assert one({"total": 2, "a": 1}) == Score(total=2, parts={"a": 1})
    assert one(Score(total=None, error="why")) == Score(total=None, error="why")
    with pytest.raises(RewardError, match="returned str, expected a number"):
        one("1.0")


def test_no_function_at_all() -> None:
    for name in ("", "Score"):
        with pytest.raises(PluginError, match=r"^Score: is a class"):
            lift(Score, name)
    with pytest.raises(PluginError, match=r"takes \['x'\]"):
        lift(lambda x: 1.0, "short")


def test_a_line_is_cut_where_it_is_longer() -> None:
    assert one_line(" a  b\nc ", limit=5) == "a b c"
    assert one_line("abcdef", limit=5) == "ab..."
    assert len(one_line("x" * 500)) == 400


def test_keep_mask() -> None:
    scores = [Score(total=1.0), Score(total=None, error="reward x: raised"), Score(total=0.0)]
    assert keep_mask(scores, "drop_group") == [False, False, False]
    assert keep_mask(scores, "drop_rollout") == [True, False, True]
    assert keep_mask(scores[:1], "drop_group") == [True]
    assert keep_mask(scores[:1], "stop") == [True]
    with pytest.raises(RewardError, match="reward x: raised"):
        keep_mask(scores, "stop")


def test_rollouts_keep_their_token_count_without_tensors() -> None:
    import torch

    from mmreason.types import Segment

    policy = Segment(kind="policy", ids=torch.arange(5), loss_mask=torch.ones(5, dtype=torch.bool))
    light = without_tensors(Rollout(text="a", segments=(policy,), finish_reason="length", view="shuffled", seed=3))
    assert (light.tokens, light.segments) == (5, ())
    assert (light.text, light.finish_reason, light.view, light.seed) == ("a", "length", "shuffled", 3)
