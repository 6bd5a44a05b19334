"""Documentation that can fail: reference pages equal the code, links lead somewhere, Python in the pages compiles."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "plugins").glob("*/*/README.md")])
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)(?:#[^)]*)?\)")
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


REQUEST = re.compile(r"completions\.create\(|/v1/chat/completions|/generate\b.*-d|\bgenerate\(|sgl\.gen\(")
BLOCK = re.compile(r"^```(?:python|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SITE = tomllib.loads((ROOT / "docs" / "zensical.toml").read_text())["project"]


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
def test_documented_requests_say_how_to_sample(page: Path) -> None:
    """At OpenAI's default temperature a small model writes nonsense, and a newcomer judges by the first answer."""
    asking = [block for block in BLOCK.findall(page.read_text()) if REQUEST.search(block) and "Scripted" not in block]
    assert [block for block in asking if "temperature" not in block] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_flags_exist(page: Path) -> None:
    """Every flag in a `sgcore serve` command line is one of the options, or of the command line itself."""
    from sgcore.config import FLAT_NAMES

    known = {*FLAT_NAMES, "config", "explain", "debug"}
    for line in re.findall(r"sgcore serve [^\n`]*", page.read_text()):
        said = {flag.replace("-", "_") for flag in re.findall(r"--([a-z][a-z-]*)", line)}
        assert said <= known, line


def pages_of(nav: list[dict[str, str | list]]) -> Iterator[str]:
    for entry in nav:
        for target in entry.values():
            if isinstance(target, str):
                yield target
            else:
                yield from pages_of(target)


def test_the_site_has_every_page() -> None:
    docs = ROOT / "docs"
    assert sorted(pages_of(SITE["nav"])) == sorted(str(page.relative_to(docs)) for page in docs.rglob("*.md"))


def test_the_site_builds_without_a_warning() -> None:
    done = subprocess.run([sys.executable, ROOT / "docs" / "build.py"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    site = ROOT / "build" / "site"
    assert "Called once, after the results of all earlier steps" in (site / "reference/api/index.html").read_text()
    assert "architecture.svg" in (site / "explanation/architecture/index.html").read_text()
    assert (site / "explanation/architecture.svg").exists()


def test_the_page_of_the_suites_has_all_of_them() -> None:
    page = (ROOT / "docs" / "reference" / "testing.md").read_text()
    found = [
        f"sgcore.testing.{file.stem}.{name}"
        for file in sorted((ROOT / "sgcore" / "testing").glob("*.py"))
        for name in re.findall(r"^class (\w+Suite)\b", file.read_text(), re.MULTILINE)
    ]
    assert len(found) >= 9
    assert [name for name in found if f"\n::: {name}\n" not in page or f"`{name}`" not in page] == []
