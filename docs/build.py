"""Build the site from the pages of `docs/` into `build/site`; a link or a name that leads nowhere is an error.

python docs/build.py
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
BUILD = DOCS.parent / "build"
LINK = re.compile(r"(?<!!)\[([^\]\n]+)\]\(((?:\.\./)+[^)#\s]*)[^)]*\)")
"""A link that goes up; what is above `docs/` is in the repository and not on the site."""


def site_text(page: Path) -> str:
    """A page, with links to files of the repository as their paths."""

    def on_site(found: re.Match[str]) -> str:
        target = (page.parent / found[2]).resolve()
        if target.is_relative_to(DOCS):
            return found[0]
        path = f"`{target.relative_to(DOCS.parent)}`"
        return path if found[1].strip("`") in path else f"{found[1]} ({path})"

    return LINK.sub(on_site, page.read_text(encoding="utf-8"))


def stage() -> None:
    """What the site is made of, in a folder of its own."""
    shutil.rmtree(BUILD / "docs", ignore_errors=True)
    for path in DOCS.rglob("*"):
        target = BUILD / "docs" / path.relative_to(DOCS)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            target.write_text(site_text(path), encoding="utf-8")
        elif path.suffix == ".svg":
            shutil.copy(path, target)
    shutil.copy(DOCS / "zensical.toml", BUILD)


def main() -> int:
    stage()
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict", "-f", str(BUILD / "zensical.toml")]
    return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())
