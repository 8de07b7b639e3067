"""What `mmreason doctor` says."""

from __future__ import annotations

import torch

from mmreason.doctor import doctor
from mmreason.processors.backends import READERS, choose_decoder, problem


def test_doctor_names_what_works_and_how_to_mend_the_rest() -> None:
    lines, good = doctor(["Qwen2.5-VL", "Qwen2.5-Omni"])
    text = "\n".join(lines)
    assert good
    assert f"torch {torch.__version__}" in text.replace("+cu130", "") or "torch 2" in text
    assert f"auto is {choose_decoder('auto')} here" in text
    for name in READERS:
        (line,) = [line for line in lines if line.split()[1:2] in ([name], [f"{name}:"]) and "av " not in line]
        assert ("to mend:" in line) == (problem(name) is not None)
    assert "  Qwen2.5-Omni" in lines
    assert any("CUDA" in line or "cuda:" in line for line in lines)
    assert all("\n" not in line for line in lines)


def test_doctor_without_families() -> None:
    lines, _ = doctor()
    assert lines[-2].strip() == "(none given)"
