"""Templates of prompts."""

from __future__ import annotations

import pytest

from mmreason.errors import ConfigError, DataError
from mmreason.inference.prompts import Named, check_template, filled


def test_fields_are_filled_and_other_braces_stay() -> None:
    template = 'In {folder}, {path}: {name} ({stem}), {kind}. {{name}} {meta.place.city} {"a": 1} { x } {}'
    found = filled(template, [Named("b/c/7.png", "image", 9)], {"place": {"city": "Köln {name}"}})
    assert found == 'In c, b/c/7.png: 7.png (7), image. {name} Köln {name} {"a": 1} { x } {}'
    two = [Named("b/1.png", "image", 9), Named("b/2.tar.wav", "audio", 12)]
    assert (
        filled("{name} {kind} {folder} {extension} {size}", two, {}) == "1.png, 2.tar.wav image, audio b png, wav 9, 12"
    )
    assert filled("{folder}|{path}|{extension}", [Named("7", "image", 0)], {}) == "|7|"


@pytest.mark.parametrize(
    ("template", "has_meta", "message"),
    [
        ("{nam}", True, r"\{nam\}: no such field; did you mean 'name'\?; write \{\{nam\}\} for the text itself"),
        ("{meta.x}", False, r"\{meta\.x\}: files have no metadata"),
    ],
)
def test_fields_that_cannot_be_are_one_error(template: str, has_meta: bool, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_template(template, has_meta=has_meta)


def test_fields_that_can_be_are_taken() -> None:
    check_template("{name} {{nam}} {meta.x} {", has_meta=True)


def test_metadata_that_a_row_lacks_is_its_error() -> None:
    with pytest.raises(DataError, match=r"prompt: no \{meta\.b\.c\}; the row's meta has a, b"):
        filled("{meta.a} {meta.b.c}", [], {"a": 1, "b": 2})
