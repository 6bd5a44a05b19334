"""Documentation that can fail: reference pages equal the code, links lead somewhere, Python in the pages compiles."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "plugins").glob("*/*/README.md")])
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)(?:#[^)]*)?\)")
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_reference_pages_equal_the_code() -> None:
    done = subprocess.run([sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    missing = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name != "reference"], ids=named)
def test_python_compiles(page: Path) -> None:
    for block in PYTHON.findall(page.read_text()):
        compile(block, named(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_flags_exist(page: Path) -> None:
    """Every flag in a `sgcore serve` command line is one of the options, or of the command line itself."""
    from sgcore.config import FLAT_NAMES

    known = {*FLAT_NAMES, "config", "explain", "debug"}
    for line in re.findall(r"sgcore serve [^\n`]*", page.read_text()):
        said = {flag.replace("-", "_") for flag in re.findall(r"--([a-z][a-z-]*)", line)}
        assert said <= known, line
