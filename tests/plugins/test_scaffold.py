"""What `sgcore plugins new` writes installs, is listed and passes its own tests, where the repository is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sgcore.errors import LaunchError
from sgcore.scaffold import KINDS, write_plugin
from tests.fresh import ROOT, FreshEnvironment, build_wheels

NEEDED = (ROOT, ROOT / "plugins/hardware/cpu", ROOT / "plugins/models/llama")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folder of a new plugin of every kind."""
    folder = tmp_path_factory.mktemp("scaffold")
    return [write_plugin(kind, f"new-{kind}", folder) for kind in KINDS]


@pytest.fixture(scope="module")
def environment(written: list[Path], tmp_path_factory: pytest.TempPathFactory) -> FreshEnvironment:
    folder = tmp_path_factory.mktemp("outside")
    build_wheels([*NEEDED, *written], folder / "wheels")
    made = FreshEnvironment(folder / "venv")
    made.install(*(f"{plugin.name}[test]" for plugin in written), wheels=folder / "wheels")
    return made


def test_they_are_listed(environment: FreshEnvironment, tmp_path: Path) -> None:
    listed = json.loads(environment.run("sgcore", "plugins", "list", "--json", cwd=tmp_path).stdout)
    names = {entry["name"] for entry in listed if entry["distribution"].startswith("sgcore-new-")}
    assert names == {"NewModelForCausalLM", "new_platform", "new_attention", "new_quant", "new_primitive"}
    assert all(entry["compatible"] for entry in listed)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_they_pass_their_suites(environment: FreshEnvironment, written: list[Path], tmp_path: Path) -> None:
    for plugin in written:
        (tmp_path / plugin.name).symlink_to(plugin / "tests")
    command = ["python", "-m", "pytest", "-v", "-p", "no:cacheprovider", *(plugin.name for plugin in written)]
    done = environment.run(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
    for kind in KINDS:
        assert f"new_{kind}.py::" in done.stdout


@pytest.mark.parametrize(
    "kind, name, problem",
    [("modle", "x", "no kind"), ("model", "My_Model", "no name"), ("model", "taken", "exists")],
)
def test_what_is_refused(tmp_path: Path, kind: str, name: str, problem: str) -> None:
    (tmp_path / "sgcore-taken").mkdir()
    with pytest.raises(LaunchError, match=problem):
        write_plugin(kind, name, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["sgcore-taken"]
