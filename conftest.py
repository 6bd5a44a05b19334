"""What every test of the repository shares."""

from __future__ import annotations

import os
import random
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

if not Path("/dev/nvidia0").exists():
    # Before anything imports a kernel: Triton decides at its definition whether it is compiled or interpreted.
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a test keeps for the next start is not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> int:
    """Random inputs of a test don't depend on the tests before it; SGCORE_TEST_SEED gives it others."""
    chosen = int(os.environ.get("SGCORE_TEST_SEED") or zlib.crc32(request.node.nodeid.encode()))
    random.seed(chosen)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(chosen)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(chosen)
    request.node.add_report_section(
        "setup", "seed", f"SGCORE_TEST_SEED={chosen} gives this test the same random inputs"
    )
    return chosen


@pytest.fixture(autouse=True)
def subnormal_numbers() -> Iterator[None]:
    """A platform that a test has initialised in this thread may have them flushed, and others' libraries need them."""
    yield
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on asyncio, which is what the server runs on."""
    return "asyncio"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line what was skipped for want of something that can be installed, and how to install it."""
    reasons = [str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", ())]
    wanted = Counter(reason.removeprefix("Skipped: ") for reason in reasons if "install" in reason or "make " in reason)
    if wanted:
        listed = "; ".join(f"{count}: {reason}" for reason, count in sorted(wanted.items()))
        terminalreporter.write_line(f"not run, for want of something to install: {listed}")
