"""The core knows no model, device, attention backend, quantization method, format, grammar or word by name."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GROUPS = (
    "sgcore.models", "sgcore.platforms", "sgcore.attention", "sgcore.quantization", "sgcore.parsers", "sgcore.grammars",
    "sgcore.primitives",
)  # fmt: skip
HOST_MEMORY = "cpu"
"""torch's own word for host memory, which the core may say."""
LIBRARY = "transformers"
"""The library, which the core's extra `engine` brings; a model driver has its name."""


def plugin_names() -> set[str]:
    names: set[str] = set()
    for path in ROOT.glob("plugins/*/*/pyproject.toml"):
        points = tomllib.loads(path.read_text())["project"].get("entry-points", {})
        names.update(name for group in GROUPS for name in points.get(group, {}))
    return names


def literals(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def test_there_are_names_to_look_for():
    assert HOST_MEMORY in plugin_names() and len(plugin_names()) > 5


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("sgcore/**/*.py")), ids=lambda path: str(path.relative_to(ROOT / "sgcore"))
)
def test_no_literal_of_the_core_is_a_plugins_name(path):
    names = plugin_names() - {HOST_MEMORY, LIBRARY}
    assert [(line, text) for line, text in literals(path) if text in names] == []
