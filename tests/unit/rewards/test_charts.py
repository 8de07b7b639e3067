"""Charts as code: what is compared, by hand; and real plotting code in the sandbox."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mmreason.errors import ConfigError
from mmreason.rewards import bind
from mmreason.rewards.charts import _drawn, _gold, _score, alike, code_of, compared, obstacles, same_text, same_values
from mmreason.rewards.sandbox import Outcome
from mmreason.types import Rollout, Score
from tests.unit.rewards.helpers import sample

WHY_NOT = "; ".join(obstacles({}))
draws = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

BARS = """
import matplotlib.pyplot as plt
fig, ax = plt.subplots()
ax.bar(["owl", "tit"], [10, 20], label="seen")
ax.set_title("Birds")
ax.set_ylabel("count")
ax.legend()
plt.savefig("birds.png")
plt.show()
plt.close()
"""
LIE = """
import os
for descriptor in range(3, 9):
    try:
        os.write(descriptor, b'{"result": {"plots": [3]}}\\n')
    except OSError:
        pass
os._exit(0)
"""


@pytest.mark.parametrize(
    ("found", "wanted", "value"),
    [
        ([100, 52], [100, 50], 1),
        ([100], [100, 50], 2 / 3),
        ([105, 95], [100, 100], 1),
        ([105.1], [100], 0),
        ([50, 50, 50], [50], 0.5),
        ([], [], 1),
        ([], [1], 0),
        ([1], [], 0),
        ([0.0], [0.0], 1),
        ([0.01], [0.0], 0),
        ([-100], [-104], 1),
        ([3, 2, 1], [1, 2, 3], 1),
    ],
)
def test_values_within_five_percent(found: list[float], wanted: list[float], value: float) -> None:
    assert same_values(found, wanted) == pytest.approx(value)


def test_texts_by_edit_distance() -> None:
    assert same_text("Birds", "Birds") == same_text("", "") == 1
    assert same_text("Bird", "Birds") == pytest.approx(0.8)
    assert same_text("x", "") == 0
    assert same_text("a" * 10_000, "a" * 300) == 1  # longer ones are cut: no quadratic work


def test_pictures_by_ink() -> None:
    assert alike([0, 255, 0], [0, 255, 0]) == pytest.approx(1)
    assert alike([255, 0], [0, 255]) == 0
    assert alike([0, 0], [0, 0]) == alike([1], [1, 2]) == 0
    assert alike([1e308] * 2, [1e308] * 2) == 0


def plot(kinds: list[str], values: list[float], **texts: str) -> dict[str, Any]:
    return {"kinds": kinds, "values": values, "texts": texts}


def test_charts_are_compared_plot_by_plot() -> None:
    gold = {"layout": [[1, 1, 0, 1, 0, 1]], "plots": [plot(["bar"], [10, 20], title="Birds", y="count")], "picture": []}
    assert compared(gold, gold) == {"values": 1, "kinds": 1, "layout": 1, "words": 1}
    lines = {**gold, "plots": [plot(["line"], [10, 99], title="Birds")]}
    assert compared(lines, gold) == {"values": 0.5, "kinds": 0, "layout": 1, "words": 0.5}
    more = {"layout": [[1, 1, 0, 1, 0, 1], None], "plots": [plot(["bar"], [10, 20], title="Birds", y="count"),
            plot([], [])], "picture": []}  # fmt: skip
    assert compared(more, gold) == {"values": 0.5, "kinds": 0, "layout": 0, "words": 0.5}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("<think>```no```</think><answer>```python\nx = 1\n```</answer>", "x = 1"),
        ("```python\na\n```\nno, better:\n```python\nb\n```", "b"),
        ("```\nx = 1\ny = 2\n```", "x = 1\ny = 2"),
        ("```python\nx = 1", "x = 1"),
        ("x = 1", "x = 1"),
        ("```py x```", "py x"),
        ("<answer></answer>", None),
        ("", None),
        ("``````", None),
    ],
)
def test_code_of_an_answer(text: str, code: str | None) -> None:
    assert code_of(text) == code


def scored(gold: Any, *texts: str, **options: Any) -> list[Score]:
    golds = {} if gold is None else {"code": gold}
    reward = bind("chart_code", {"wall_s": 100.0, **options})
    return list(reward(sample(golds=golds), [Rollout(text=text) for text in texts]))


@draws
def test_what_answers_draw_is_compared_with_the_gold() -> None:
    other_code = BARS.replace("[10, 20]", "[10.3, 40]").replace('"Birds"', '"Bird"').replace("ax.bar", "ax.barh")
    other, lie, no_code = scored(BARS, f"<answer>```python\n{other_code}\n```</answer>", LIE, "")
    assert other.parts["values"] == 0.5
    assert (other.parts["kinds"], other.parts["layout"], other.parts["exec"]) == (0, 1, 1)
    assert 0.5 < other.parts["words"] < 1
    assert 0 < other.parts["visual"] < 0.95
    assert other.total == pytest.approx(
        0.5 * other.parts["text"] + 0.3 * other.parts["visual"] + 0.2 * other.parts["exec"]
    )
    for failed in (lie, no_code):
        assert failed.total == 0
        assert failed.error is None
        assert not failed.flags["correct"]


@draws
def test_what_is_read_of_a_figure() -> None:
    code = """
import matplotlib.pyplot as plt
fig, axes = plt.subplots(2, 3)
axes[0, 0].scatter([1, 2], [3, 4])
axes[0, 1].plot(["a", "b"], [5, 6], "--")
axes[0, 2].pie([1, 3], labels=["a", "b"])
fig.colorbar(axes[1, 0].imshow([[1, 2], [3, 4]]))
axes[1, 1].fill_between([1, 2], [3, 4])
axes[1, 2].barh(["owl", "tit"], [7, 8])
fig.suptitle("Six")
"""
    chart = _drawn(code, 100.0, "namespaces").result
    assert chart["layout"][:2] == [[2, 3, 0, 1, 0, 1], [2, 3, 0, 1, 1, 2]]
    plots = chart["plots"]
    assert [plot["kinds"] for plot in plots] == [["scatter"], ["line"], ["pie"], ["heatmap"], ["area"], ["barh"]]
    assert plots[0]["values"] == [1, 3, 2, 4]
    assert plots[2]["values"] == pytest.approx([0.25, 0.75])
    assert plots[3]["values"] == [1, 2, 3, 4]
    assert plots[5]["values"] == [7, 8]
    assert plots[5]["texts"]["y ticks"] == "owl\ntit"
    assert len(chart["picture"]) == 64 * 48 * 3
    # against a single plot, in the stage without pictures
    bars = _score(Outcome(result=_gold(BARS, 100.0, "namespaces")), chart, {"text": 1.0, "visual": 0.0, "exec": 0.0})
    assert bars.total is not None
    assert bars.total == bars.parts["text"] < 0.4
    assert (bars.parts["kinds"], bars.parts["layout"]) == (0, 0)


@draws
@pytest.mark.parametrize("gold", [None, [3], "x = 1"])
def test_a_gold_that_draws_nothing_is_bad(gold: Any) -> None:
    (score,) = scored(gold, BARS)
    assert score.total is None
    assert score.flags == {"bad_gold": True}
    assert "the gold's code draws nothing" in str(score.error)


@draws
def test_a_gold_that_comes_to_no_end_is_not_bad_and_tried_again(tmp_path: Path) -> None:
    """In a container, where the code can see whether it shall fail; drawn there, it is what it is elsewhere."""
    (late,) = scored(BARS, "", wall_s=0.2)
    assert (late.total, late.flags) == (None, {})
    assert str(late.error).endswith("the gold's code came to no end: it did not end within 0.2 s")
    flag = tmp_path / "fail"
    flag.touch()
    code = f"import os\nif os.path.exists({str(flag)!r}): os._exit(1)\n{BARS}"
    (killed,) = scored(code, "", isolation="container")
    assert (killed.total, killed.flags) == (None, {})
    flag.unlink()
    (empty,) = scored(code, "", isolation="container")
    assert (empty.total, empty.error) == (0, None)
    again = Outcome(result=_gold(code, 100.0, "container"))
    same = _score(again, _gold(BARS, 100.0, "namespaces"), {"text": 0.5, "visual": 0.3, "exec": 0.2})
    assert same.total == pytest.approx(1.0)
    assert same.parts["visual"] == pytest.approx(1.0)
    assert same.flags == {"correct": True, "answered": True}


def test_isolation_is_namespaces_or_said_otherwise() -> None:
    with pytest.raises(ConfigError, match="option isolation: got 'none', expected one of 'namespaces', 'container'"):
        bind("chart_code", {"isolation": "none"})


def test_without_matplotlib_it_is_refused_in_a_line() -> None:
    program = "import sys; sys.modules['matplotlib'] = None; from mmreason.rewards import bind; bind('chart_code', {})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "reward chart_code: needs matplotlib; pip install 'mmreason[charts]'" in done.stderr
