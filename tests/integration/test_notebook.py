"""The notebook runs from top to bottom in a kernel without a display; training works off the main thread as well."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

import mmreason
from mmreason.demo.media import DemoFiles
from tests.integration.runs import config

NOTEBOOK = Path(__file__).parents[2] / "examples" / "first_run.ipynb"


def test_outputs_are_stripped() -> None:
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("DISPLAY", raising=False)
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute()
    shown = {cell.source: "".join(_texts(cell.outputs)) for cell in notebook.cells if cell.cell_type == "code"}
    (table,) = [text for source, text in shown.items() if source.endswith("\nfound")]
    assert "pass@4" in table
    assert "first_run/run/eval.jsonl" in table
    (losses,) = [text for source, text in shown.items() if "nll" in source]
    values = [float(value) for value in losses.strip("[]").split(",")]
    assert len(values) == 6
    assert values[-1] < values[0]
    (checked,) = [text for source, text in shown.items() if "check(" in source]
    assert checked == "True"
    run = tmp_path / "first_run" / "run"
    assert (run / "report.html").exists()
    assert list((run / "tensorboard").glob("events.*"))


def _texts(outputs: list[Any]) -> list[str]:
    """What cells show as their value; what they print is left out."""
    return [output.data["text/plain"] for output in outputs if output.output_type == "execute_result"]


@pytest.mark.parametrize("where", ["thread", "event loop"])
def test_training_off_the_main_thread_or_in_an_event_loop(
    where: str, tiny_omni: Path, demo_data: DemoFiles, tmp_path: Path
) -> None:
    values = config(tmp_path / "run", tiny_omni, demo_data, "sft", train={"steps": 1, "trackers": []})
    done: list[Path] = []

    def train() -> None:
        done.append(mmreason.train(values))

    async def cell() -> None:
        train()

    if where == "thread":
        thread = threading.Thread(target=train, daemon=True)
        thread.start()
        thread.join(120)
    else:
        asyncio.run(cell())
    assert done == [tmp_path / "run" / "model"]
