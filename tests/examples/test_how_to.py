"""The plugins of the how-to pages pass the suites that the pages show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HOW_TO = Path(__file__).resolve().parents[2] / "docs" / "how-to"
FILE = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def write_plugin(page: Path, folder: Path) -> None:
    """The page's files, and the metadata that an installation of them has."""
    for name, text in FILE.findall(page.read_text()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = project["entry-points"].items()
    groups = (
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in rows.items()) for group, rows in points
    )
    (info / "entry_points.txt").write_text("\n".join(groups))


@pytest.mark.parametrize("page", ["add-a-weight-source", "add-a-grammar-backend"])
def test_the_pages_plugin_passes_its_suite(page: str, tmp_path: Path) -> None:
    write_plugin(HOW_TO / f"{page}.md", tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout[-3000:]
