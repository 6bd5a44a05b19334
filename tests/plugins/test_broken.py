"""What a user sees of a broken plugin is what docs/explanation/broken-plugins.md says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.plugins.broken import CRASHES, HANGS, PLUGINS, Broken, install

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanation" / "broken-plugins.md"
QUICK_NOTICE = "import sys; from sgcore import cli; from sgcore.plugins import patience; patience.NOTICE_S = 1"
COMMAND = [sys.executable, "-c", f"{QUICK_NOTICE}; sys.exit(cli.main())"]
DRIVERS = [plugin for plugin in PLUGINS if plugin.group == "platforms" and plugin.name != "conflict-2"]
HOOKS = [plugin for plugin in PLUGINS if plugin.group == "plugins"]
READY = "fired up and ready"


@dataclass(frozen=True)
class Row:
    """A plugin on the page: what it says that is printed."""

    check: str
    serve: str
    is_started: bool


def read_page() -> dict[str, Row]:
    rows = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and "`" in line and cells[0] != "plugin":
            check, serve = (re.findall("`([^`]+)`", cell)[0] for cell in cells[2:4])
            rows[cells[0]] = Row(check, serve, "and starts" in cells[3])
    return rows


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    return read_page()


@dataclass
class Site:
    """An environment with broken plugins, and a model that needs no torch."""

    folder: Path
    model: Path

    def run(self, *words: str, limit_s: float = 60) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        return subprocess.run([*COMMAND, *words], env=environment, capture_output=True, text=True, timeout=limit_s)

    def serve(self, platform: str, *words: str) -> str:
        """What `sgcore serve` prints until it is ready, ends, or says that it waits."""
        command = [*COMMAND, "serve", str(self.model), "--load-format", "dummy", "--skip-tokenizer-init", "--port", "0"]
        environment, printed = {**os.environ, "PYTHONPATH": str(self.folder)}, ""
        with subprocess.Popen(
            [*command, "--platform", platform, *words],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            for line in process.stdout:
                printed += line
                if READY in line or ("still loading" in line and "hang" in line):
                    process.kill()
        return printed


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    config = {"architectures": ["WholeModel"], "vocab_size": 64, "max_position_embeddings": 256}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def site(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(install(PLUGINS, tmp_path_factory.mktemp("broken")), model)


@pytest.fixture(scope="module")
def checked(site: Site) -> str:
    names = [plugin.distribution for plugin in PLUGINS]
    done = site.run("plugins", "check", *names, "--time-limit", "5")
    assert done.returncode == 1
    return done.stdout


def line_of(text: str, plugin: Broken) -> str:
    (line,) = [line for line in text.splitlines() if f"{plugin.distribution} 1.0)" in line]
    return line


def test_the_page_has_every_plugin(rows: dict[str, Row]) -> None:
    assert rows.keys() == {plugin.name for plugin in (*HOOKS, *DRIVERS, HANGS, CRASHES)}


def test_list_has_all_of_them_and_imports_none(site: Site) -> None:
    listed = json.loads(site.run("plugins", "list", "--json").stdout)
    found = {entry["distribution"]: entry["compatible"] for entry in listed}
    assert {plugin.distribution: found[plugin.distribution] for plugin in PLUGINS} == {
        plugin.distribution: plugin.requires == "sgcore>=0.1" for plugin in PLUGINS
    }


@pytest.mark.parametrize("plugin", [*HOOKS, *DRIVERS], ids=lambda plugin: plugin.name)
def test_check(plugin: Broken, checked: str, rows: dict[str, Row]) -> None:
    line, expected = line_of(checked, plugin), rows[plugin.name].check
    assert line.startswith("ok " if expected == "ok" else "FAIL "), line
    assert expected in line


def test_a_server_starts_without_the_hooks_that_fail(site: Site, rows: dict[str, Row]) -> None:
    printed = site.serve("null")
    assert READY in printed
    for plugin in HOOKS:
        warning = f"warning: plugin {plugin.entry} ({plugin.distribution}) {rows[plugin.name].serve}"
        assert rows[plugin.name].is_started and warning in printed, plugin.name


def test_doctor_says_why_they_take_no_part(site: Site) -> None:
    disabled = site.run("doctor").stdout.partition("\nDisabled\n")[2]
    asked = [plugin for plugin in HOOKS if plugin.name != "hook-raises"]
    assert [plugin.name for plugin in asked if f"{plugin.entry} ({plugin.distribution}): " not in disabled] == []
    assert "broken-driver-version 1.0 needs sgcore>=7" in disabled


@pytest.mark.parametrize("plugin", DRIVERS, ids=lambda plugin: plugin.name)
def test_a_driver_that_was_chosen_is_not_replaced(plugin: Broken, site: Site, rows: dict[str, Row]) -> None:
    printed = site.serve(plugin.entry, "--log-level", "debug")
    assert rows[plugin.name].serve in printed and READY not in printed
    assert plugin.entry in printed, "with the debug log, also where it raises when it is used"


@pytest.mark.parametrize("plugin", [HANGS, CRASHES], ids=lambda plugin: plugin.name)
def test_a_hooks_module_that_takes_the_process_with_it(
    plugin: Broken, model: Path, rows: dict[str, Row], tmp_path: Path
) -> None:
    whole = PLUGINS[-1]
    site = Site(install([plugin, whole], tmp_path), model)
    with ThreadPoolExecutor() as pool:
        checked = pool.submit(site.run, "plugins", "check", plugin.entry, "--time-limit", "3")
        printed = site.serve("null")
    assert rows[plugin.name].check in line_of(checked.result().stdout, plugin)
    assert rows[plugin.name].serve in printed and plugin.entry in printed and READY not in printed
    assert "--disable-plugin" in site.serve("null", "--disable-plugin", plugin.entry, "--explain")
