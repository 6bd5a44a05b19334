"""Environments that have what a user's have: wheels of sgcore and of plugins, and nothing of this repository."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OURS = ("sgcore", "_editable_impl_sgcore")


def build_wheels(folders: Iterable[Path], into: Path, *, compiles: bool = False) -> None:
    """One wheel for each folder with a pyproject.toml, by the backend that all of them name.

    Native code takes minutes to compile; unless `compiles`, it is in a wheel only if it has been compiled already.
    """
    environment = os.environ if compiles else {**os.environ, "CXX": "/bin/false"}
    for folder in folders:
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(into)]
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, timeout=900)


class FreshEnvironment:
    """A virtual environment with the libraries of the one that runs the tests, as links, and none of its plugins."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False)
        self.bin = folder / "bin"
        self.python = self.bin / "python"
        (site,) = folder.glob("lib/python*/site-packages")
        for path in Path(sysconfig.get_path("purelib")).iterdir():
            if not path.name.startswith(OURS) and path.suffix != ".pth":
                (site / path.name).symlink_to(path)

    def install(self, *requirements: str, wheels: Path) -> None:
        """Install with pip from a folder of wheels, with the dependencies that they name."""
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "--disable-pip-version-check", "install"]
        command = [*pip, "-q", "--no-index", "--find-links", str(wheels), *requirements]
        subprocess.run(command, check=True, timeout=600)

    def run(self, *words: str, cwd: Path, timeout_s: float = 900) -> subprocess.CompletedProcess[str]:
        """Run one of the environment's programs, which sees nothing of this process's Python path."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment["PATH"] = f"{self.bin}{os.pathsep}{environment['PATH']}"
        command = [str(self.bin / words[0]), *words[1:]]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout_s)
