"""A fake engine, the application over it, and a real server on a real port."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient

from sgcore.config import ServerOptions
from sgcore.server.app import create_app
from sgcore.server.connection import protocol
from tests.server.fake import FakeFrontend

Start = Callable[..., AbstractContextManager[str]]


@pytest.fixture
def frontend() -> FakeFrontend:
    return FakeFrontend()


@pytest.fixture
def client(frontend: FakeFrontend) -> Iterator[TestClient]:
    with TestClient(create_app(frontend, ServerOptions()), raise_server_exceptions=False) as client:
        yield client


@contextmanager
def running(frontend: Any, **options: Any) -> Iterator[str]:
    """A server on a free port, in a thread; gives its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server_options = ServerOptions(**options)
    app = create_app(frontend, server_options)
    http = protocol(server_options)
    config = uvicorn.Config(app, loop="uvloop", http=http, log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="session")
def start() -> Start:
    return running
