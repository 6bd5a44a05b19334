"""One server for all the tests that leave it as they found it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.serving import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "log"
    started = Server(log, "--tool-call-parser", "hermes").wait_ready()
    yield started
    assert started.stop() == 0, started.log.read_text()
