"""What `sgcore plugins new` writes installs, is listed and passes its own tests, in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from sgcore.errors import LaunchError
from sgcore.scaffold import KINDS, write_plugin


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """An environment over this one, with a new plugin of every kind: its python, and the plugins' folders."""
    folder = tmp_path_factory.mktemp("scaffold")
    written = {kind: write_plugin(kind, f"new-{kind}", folder) for kind in KINDS}
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    # Behind its own packages, those of the environment that the tests run in, with what those are linked to.
    (site / "below.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check", "install", "-q"]
    subprocess.run([*pip, "--no-deps", *map(str, written.values())], check=True, timeout=200)
    return python, written


def test_they_are_listed(installed: tuple[Path, dict[str, Path]]) -> None:
    python, _ = installed
    command = [python, "-m", "sgcore.cli", "plugins", "list", "--json"]
    listed = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=60).stdout)
    names = {entry["name"] for entry in listed if entry["distribution"].startswith("sgcore-new-")}
    assert names == {"NewModelForCausalLM", "new_platform", "new_attention", "new_quant", "new_primitive"}
    assert all(entry["compatible"] for entry in listed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.timeout(300)
def test_they_pass_their_suites(installed: tuple[Path, dict[str, Path]], kind: str) -> None:
    python, written = installed
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=written[kind], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout and "no tests ran" not in done.stdout


@pytest.mark.parametrize(
    "kind, name, problem",
    [("modle", "x", "no kind"), ("model", "My_Model", "no name"), ("model", "taken", "exists")],
)
def test_what_is_refused(tmp_path: Path, kind: str, name: str, problem: str) -> None:
    (tmp_path / "sgcore-taken").mkdir()
    with pytest.raises(LaunchError, match=problem):
        write_plugin(kind, name, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["sgcore-taken"]
