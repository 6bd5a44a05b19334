"""How large the code is: lines, functions and files of the core by package, and of each plugin."""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from harness import arguments, report

ROOT = Path(__file__).parents[1]
SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}
SUITE = re.compile(r"from sgcore\.testing\.\w+ import .*?\b(\w+Suite)\b")
OTHER_MEANINGS = {"cpu", "transformers"}
"""Names of plugins that are torch's word for host memory, and a library that the core uses."""
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Size:
    """Files put together."""

    files: list[int] = field(default_factory=list)
    """Physical lines of each."""
    functions: list[int] = field(default_factory=list)
    """Lines of each, without decorators."""
    code: int = 0
    """Lines that are neither blank, comment nor docstring."""

    def add(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        parsed = ast.parse(text)
        self.files.append(text.count("\n"))
        self.code += len(code_lines(text) - docstring_lines(parsed))
        nodes = (node for node in ast.walk(parsed) if isinstance(node, FUNCTIONS))
        self.functions += [(node.end_lineno or node.lineno) - node.lineno + 1 for node in nodes]

    def row(self, name: str) -> dict[str, Any]:
        return {
            "package": name,
            "files": len(self.files),
            "lines": sum(self.files),
            "code": self.code,
            "function p50 / p90 / max": spread(self.functions),
            "file p50 / p90 / max": spread(self.files),
        }


def code_lines(text: str) -> set[int]:
    """Numbers of the lines that a token other than a comment touches."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    spans = (range(token.start[0], token.end[0] + 1) for token in tokens if token.type not in SILENT and token.string)
    return {line for span in spans for line in span}


def docstring_lines(parsed: ast.Module) -> set[int]:
    """Numbers of the lines of strings that stand alone: docstrings, also those of attributes."""
    alone = (node for node in ast.walk(parsed) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    return {line for node in alone for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}


def spread(values: list[int]) -> str:
    if not values:
        return "–"
    return " / ".join(f"{value:.0f}" for value in np.percentile(values, [50, 90, 100]))


def size_of(paths: Iterable[Path]) -> Size:
    size = Size()
    for path in paths:
        size.add(path)
    return size


def core_rows() -> Iterator[dict[str, Any]]:
    core = ROOT / "sgcore"
    yield size_of(core.glob("*.py")).row("sgcore/*.py")
    for folder in sorted(path.parent for path in core.glob("*/__init__.py")):
        yield size_of(folder.rglob("*.py")).row(f"sgcore/{folder.name}")
    yield size_of(core.rglob("*.py")).row("sgcore, all")
    yield size_of((ROOT / "tests").rglob("*.py")).row("tests")
    yield size_of((ROOT / "bench").rglob("*.py")).row("bench")


def plugin_rows() -> Iterator[dict[str, Any]]:
    for project in sorted(ROOT.glob("plugins/*/*/pyproject.toml")):
        folder = project.parent
        tests = set((folder / "tests").rglob("*.py"))
        name = str(folder.relative_to(ROOT / "plugins"))
        yield size_of(path for path in folder.rglob("*.py") if path not in tests).row(name)
        if tests:
            yield size_of(tests).row(f"{name}, tests")


def seam_rows() -> Iterator[dict[str, Any]]:
    """Each plugin's lines, the suites that its tests inherit, and the places in the core that know of it."""
    core = list(words_of_core())
    for project in sorted(ROOT.glob("plugins/*/*/pyproject.toml")):
        folder, described = project.parent, tomllib.loads(project.read_text())["project"]
        points = described.get("entry-points", {})
        names = {name for group in points.values() for name in group} - OTHER_MEANINGS
        names |= {described["name"], *(path.parent.name for path in folder.glob("*/__init__.py"))}
        tests = set((folder / "tests").rglob("*.py"))
        yield {
            "plugin": str(folder.relative_to(ROOT / "plugins")),
            "provides": ", ".join(
                sorted(group.removeprefix("sgcore.").replace("plugins", "hooks") for group in points)
            ),
            "lines": sum(size_of(path for path in folder.rglob("*.py") if path not in tests).files),
            "tests": sum(size_of(tests).files),
            "suites": ", ".join(sorted({suite for path in tests for suite in SUITE.findall(path.read_text())})),
            "places in the core": sum(word in names for word in core),
        }


def words_of_core() -> Iterator[str]:
    """Every string literal under `sgcore/`, and the top of every module that is imported there."""
    for path in (ROOT / "sgcore").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield (node.module or "").partition(".")[0]


def main() -> int:
    asked = arguments(__doc__).parse_args()
    report(
        "sizes", {"Core": list(core_rows()), "Plugins": list(plugin_rows()), "Seams": list(seam_rows())}, asked.output
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
