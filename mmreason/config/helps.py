"""The help of each key: the text that stands under it in the class of its section.

pydantic would read these texts, too (`use_attribute_docstrings`), but at every start of every process, for a third of
the time that importing the sections takes. Here they are read when somebody asks for them.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache
from itertools import pairwise

from mmreason.config.section import Section


@cache
def helps(section: type[Section]) -> dict[str, str]:
    """Key -> its help, for the keys of a section that have one."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(definition, ast.ClassDef)
    return {
        key.target.id: inspect.cleandoc(text.value.value)
        for key, text in pairwise(definition.body)
        if isinstance(key, ast.AnnAssign) and isinstance(key.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }
