"""`mmreason recipes`: what each recipe is, as text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmreason.config import RecipeHeader, load_plan, read_header, recipe_files
from mmreason.config.recipe_files import find_config, nearest_recipe
from mmreason.errors import ConfigError

_WIDTH = 120
_NONE_NEAR = "; `mmreason recipes` lists them"


def table(folder: Path | None = None) -> Iterator[str]:
    """A few lines for each recipe of a folder, by default the shipped ones. Raises ConfigError."""
    rows = [(name, header) for name, file in recipe_files(folder).items() if (header := read_header(file))]
    if not rows:
        raise ConfigError(f"{folder}: no recipes there, that is, no *.yaml files with a section recipe:")
    columns = [_cells(name, header) for name, header in rows]
    widths = [max(len(cells[index]) for cells in [_HEAD, *columns]) for index in range(len(_HEAD))]
    yield _line(_HEAD, widths)
    for (_, header), cells in zip(rows, columns, strict=True):
        yield _line(cells, widths)
        yield from _differs(header, indent="    ")


_HEAD = ("recipe", "method", "modality", "fidelity", "paper")


def _cells(name: str, header: RecipeHeader) -> tuple[str, ...]:
    paper = f"{header.paper}, arXiv {header.arxiv}" if header.arxiv else header.paper
    return (name, header.method, header.modality, header.fidelity, paper)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()


def _differs(header: RecipeHeader, indent: str) -> Iterator[str]:
    for text in header.differs:
        yield from textwrap.wrap(f"- {text}", _WIDTH, initial_indent=indent, subsequent_indent=f"{indent}  ")


def shown(given: str) -> Iterator[str]:
    """All about one recipe: its header, its stages, its file. Raises ConfigError."""
    file, _ = find_config(given)
    if not file.is_file():
        raise ConfigError(f"{given}: no such recipe or file{nearest_recipe(file) or _NONE_NEAR}")
    plan = load_plan(file)
    header = plan.header
    if header is None:
        raise ConfigError(f"{file}: no recipe; a recipe has a section recipe: (docs/recipes.md)")
    name, method, modality, fidelity, paper = _cells(file.stem, header)
    checked = f"; {', '.join(header.checked_by)}" if header.checked_by else ""
    yield from (
        f"{name}: {paper}",
        f"  method    {method}",
        f"  modality  {modality}",
        f"  fidelity  {fidelity}{checked}",
        f"  rows      {', '.join(header.rows)}",
    )
    for stage in plan.stages:
        config = stage.config
        data = ", ".join(source.path for source in config.data.train)
        begins = f"the model of {stage.after}" if stage.after else config.model.path
        does = f"{config.train.method}, {config.train.steps} steps" if stage.sample is None else "sampling"
        yield f"  {stage.name or 'run':8}  {does}, from {begins}, on {data}"
    if header.differs:
        yield "  differs from the paper:"
        yield from _differs(header, indent="    ")
    yield f"  file      {file}"
