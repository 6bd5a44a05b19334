"""The wheel's build compiles the kernels; without a compiler the wheel has none, and says so when it is used."""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("sgcore_cpu") / "native"


class NativeBuildHook(BuildHookInterface[Any]):
    """Compiles into the source tree, where an editable installation finds the library too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        builder = _load(Path(self.root) / FOLDER / "build.py")
        try:
            library = builder.LIBRARY if builder.is_current() else builder.build(warn=self.app.display_warning)
        except builder.BuildError as error:
            self.app.display_warning(f"sgcore-cpu is built without native kernels: {error}")
            return
        build_data["artifacts"].append(str(library.relative_to(self.root)))
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("sgcore_cpu_build", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
