"""Plugins that are broken in every way that we know, as wheels."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

HOOK = "from sgcore.hookspecs import hookimpl\n"
PLATFORM = """\
from sgcore.api import Platform
class Broken(Platform):
    name, device_type, default_attention = 'broken', 'cpu', 'null'
    def initialise(self, rank): ...
    def memory(self): ...
    def kernels(self): ...
"""
MISSING = "import a_library_that_is_missing\n"
EXIT = "raise SystemExit('no licence')\n"
IMPORTED = "raise AssertionError('it was imported')\n"
HANG = "import time\ntime.sleep(600)\n"
CRASH = "import ctypes\nctypes.string_at(0)\n"


@dataclass(frozen=True)
class Broken:
    """A distribution `broken-NAME` with one module, which is a hooks module or has the driver `Broken`."""

    name: str
    source: str
    group: str = "plugins"
    offers: str = ""
    """The entry point's name; `broken_NAME` where it is left out."""
    requires: str = "sgcore>=0.1"

    @property
    def distribution(self) -> str:
        return f"broken-{self.name}"

    @property
    def entry(self) -> str:
        return self.offers or f"broken_{self.name}".replace("-", "_")

    def write_wheel(self, folder: Path) -> Path:
        """The wheel that a build of this distribution gives."""
        module = self.distribution.replace("-", "_")
        info = f"{module}-1.0.dist-info"
        target = module if self.group == "plugins" else f"{module}:Broken"
        files = {
            f"{module}.py": self.source,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {self.distribution}\nVersion: 1.0\n"
            f"Requires-Dist: {self.requires}\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/entry_points.txt": f"[sgcore.{self.group}]\n{self.entry} = {target}\n",
        }
        files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
        path = folder / f"{module}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            for name, text in files.items():
                wheel.writestr(name, text)
        return path


PLUGINS = (
    Broken("import", MISSING),
    Broken("exit", EXIT),
    Broken("hook-name", HOOK + "@hookimpl\ndef sgcore_select_wieghts(path): ...\n"),
    Broken("signature", HOOK + "@hookimpl\ndef sgcore_select_weights(file): ...\n"),
    Broken("hook-raises", HOOK + "@hookimpl\ndef sgcore_check(plan):\n    raise OSError('no driver')\n"),
    Broken("version", IMPORTED, requires="sgcore>=7"),
    Broken("driver-import", MISSING, "platforms"),
    Broken("driver-exit", EXIT, "platforms"),
    Broken("driver-kind", "class Broken: ...\n", "platforms"),
    Broken("driver-raises", PLATFORM + "    def create_runner(self, plan):\n        raise OSError('no device')\n",
           "platforms"),
    Broken("driver-version", IMPORTED, "platforms", requires="sgcore>=7"),
    Broken("driver-hang", HANG, "platforms"),
    Broken("driver-crash", CRASH, "platforms"),
    Broken("conflict", PLATFORM, "platforms"),
    Broken("conflict-2", PLATFORM, "platforms", offers="broken_conflict"),
    Broken("model", "from sgcore.api import Model\nclass Broken(Model): ...\n", "models", offers="WholeModel"),
)  # fmt: skip
"""Of every kind that leaves others alone as long as nobody names it; the last is whole and imports no torch."""
HANGS = Broken("hang", HANG)
CRASHES = Broken("crash", CRASH)


def install(plugins: Iterable[Broken], folder: Path) -> Path:
    """A folder for `PYTHONPATH` with these distributions, as pip installs them."""
    wheels, site = folder / "wheels", folder / "site"
    wheels.mkdir()
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps", "--no-index"]
    built = [str(plugin.write_wheel(wheels)) for plugin in plugins]
    subprocess.run([*command, "--target", str(site), *built], check=True, timeout=100)
    return site
