"""What every test of the repository shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

if not Path("/dev/nvidia0").exists():
    # Before anything imports a kernel: Triton decides at its definition whether it is compiled or interpreted.
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on asyncio, which is what the server runs on."""
    return "asyncio"
