"""A stranger who follows docs/tutorial/first-model-plugin.md gets what it says, where the repository is not."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fresh import ROOT, FreshEnvironment, build_wheels
from tests.integration.serving import free_port

PAGE = ROOT / "docs" / "tutorial" / "first-model-plugin.md"
NEEDED = (ROOT, ROOT / "plugins/hardware/cpu")
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
PORT = "30000"
READY = "fired up and ready"
LIMIT_S = 600


class Reader:
    """Writes the page's files, runs its commands, and looks for the words that it promises."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.environment, self.folder = environment, folder
        self.where, self.log = folder / "where", folder / "server.log"
        self.port, self.printed = str(free_port()), ""
        self.server: subprocess.Popen[bytes] | None = None

    def follow(self, kind: str, title: str, text: str) -> None:
        text = text.replace(PORT, self.port)
        if kind == "python":
            (self.folder / title).write_text(text)
        elif kind == "text":
            assert [line for line in text.splitlines() if line not in self.printed] == [], self.printed[-3000:]
        elif title == "server":
            self.serve(text)
        else:
            self.run(text, fails=title == "fails")

    def run(self, text: str, fails: bool) -> None:
        """Run commands, and stay in the folder that they end in."""
        began = time.monotonic()
        done = subprocess.run(
            ["bash", "-ec", f"trap 'pwd > {self.where}' EXIT\n{text}"], cwd=self.folder, env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT_S,
        )  # fmt: skip
        print(f"{time.monotonic() - began:5.1f} s  {'; '.join(text.splitlines())}")
        self.printed = done.stdout
        assert (done.returncode != 0) == fails, f"{text}{done.stdout[-3000:]}"
        self.folder = Path(self.where.read_text().strip())

    def serve(self, text: str) -> None:
        began = time.monotonic()
        with self.log.open("w") as log:
            command = ["bash", "-c", f"exec {text}"]
            self.server = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
        while READY not in self.log.read_text():
            assert self.server.poll() is None and time.monotonic() - began < LIMIT_S, self.log.read_text()
            time.sleep(0.1)
        print(f"{time.monotonic() - began:5.1f} s  {text.strip()}")

    def close(self) -> None:
        if self.server is not None:
            self.server.terminate()
            self.server.wait(timeout=30)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    build_wheels(NEEDED, tmp_path / "wheels")
    fresh = FreshEnvironment(tmp_path / "venv")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP"))}
    # pip takes sgcore from this tree and the build backend from the environment; a reader has an index for both.
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "wheels"), "PIP_NO_BUILD_ISOLATION": "0"}
    (fresh.bin / "pip").write_text(f'#!/bin/sh\nexec "{fresh.python}" -m pip --disable-pip-version-check "$@"\n')
    (fresh.bin / "pytest").write_text(f'#!/bin/sh\nexec "{fresh.python}" -m pytest -p no:cacheprovider "$@"\n')
    for name in ("pip", "pytest"):
        (fresh.bin / name).chmod(0o755)
    path = f"{fresh.bin}{os.pathsep}{os.environ['PATH']}"
    (tmp_path / "home").mkdir()
    opened = Reader({**clean, **offline, "PATH": path}, tmp_path / "home")
    yield opened
    opened.close()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_step_does_what_the_page_says(reader: Reader) -> None:
    blocks = BLOCK.findall(PAGE.read_text())
    assert {kind for kind, _, _ in blocks} == {"bash", "python", "text"} and len(blocks) > 15
    for kind, title, text in blocks:
        reader.follow(kind, title, text)


def test_the_model_is_under_a_hundred_lines() -> None:
    written = [text for kind, _, text in BLOCK.findall(PAGE.read_text()) if kind == "python"]
    assert sum(text.count("\n") for text in written) < 100
