"""The key stands before every route but the probes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.testclient import TestClient

from sgcore.config import ServerOptions
from sgcore.server.app import create_app
from sgcore.server.auth import OPEN_PATHS, KeyGuard
from sgcore.server.routes import ROUTES
from tests.server.fake import FakeFrontend

KEY = "sésame"
RIGHT = {"authorization": f"Bearer {KEY}".encode()}
PATHS = [(path, entry.methods[0]) for entry in ROUTES for path in entry.paths] + [("/openapi.json", "GET")]


@pytest.fixture
def client() -> TestClient:
    return TestClient(create_app(FakeFrontend(), ServerOptions(api_key=KEY)))


@pytest.mark.parametrize(("path", "method"), PATHS)
def test_every_route_but_the_probes_asks_for_the_key(client: TestClient, path: str, method: str) -> None:
    reply = client.request(method, path)
    assert (reply.status_code == 401) == (path not in OPEN_PATHS)
    if reply.status_code == 401:
        assert reply.headers["www-authenticate"] == "Bearer"
        assert reply.json()["error"]["type"] == "authentication_error"
    assert client.request(method, path, headers=RIGHT).status_code != 401


@pytest.mark.parametrize("given", [b"", b"Bearer", b"Bearer ", b"Bearer x", b"Basic " + KEY.encode(), KEY.encode()])
def test_wrong_keys(client: TestClient, given: bytes) -> None:
    assert client.get("/v1/models", headers={"authorization": given}).status_code == 401


@pytest.mark.parametrize("given", [b"bearer " + KEY.encode(), b"Bearer  " + KEY.encode()])
def test_the_scheme_is_case_insensitive(client: TestClient, given: bytes) -> None:
    assert client.get("/v1/models", headers={"authorization": given}).status_code == 200


@pytest.mark.parametrize("path", ["/nothing", "/health/", "//health", "/health/../generate"])
def test_no_path_slips_through(client: TestClient, path: str) -> None:
    assert client.get(path, follow_redirects=False).status_code == 401


def test_websockets_need_the_key_too() -> None:
    reached: list[str] = []
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["type"])

    async def send(message: Any) -> None:
        sent.append(message)

    async def ask(headers: list[tuple[bytes, bytes]]) -> None:
        scope = {"type": "websocket", "path": "/health", "headers": headers}
        await KeyGuard(app, KEY)(scope, None, send)  # type: ignore[arg-type]

    asyncio.run(ask([]))
    assert not reached and sent[0]["type"] == "websocket.close" and sent[0]["code"] == 1008
    asyncio.run(ask([(b"authorization", RIGHT["authorization"])]))
    assert reached == ["websocket"]


PREFLIGHT = {
    "origin": "https://page.example",
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization, content-type",
}


def test_a_page_of_an_allowed_origin_may_ask_before_it_has_shown_the_key() -> None:
    options = ServerOptions(api_key=KEY, cors_allow_origins=("https://page.example",))
    client = TestClient(create_app(FakeFrontend(), options))
    reply = client.options("/v1/chat/completions", headers=PREFLIGHT)
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == "https://page.example"
    assert "authorization" in reply.headers["access-control-allow-headers"]
    asked = {"origin": "https://page.example"}
    for refused in (client.get("/v1/models", headers=asked), client.get("/nothing", headers=asked | RIGHT)):
        assert refused.status_code in (401, 404)  # a page can read why
        assert refused.headers["access-control-allow-origin"] == "https://page.example"
    assert client.options("/generate", headers=PREFLIGHT | {"origin": "https://other.example"}).status_code == 400


def test_pages_may_not_ask_unless_somebody_says_so(client: TestClient) -> None:
    reply = client.options("/v1/chat/completions", headers=PREFLIGHT)
    assert reply.status_code == 401 and "access-control-allow-origin" not in reply.headers


def test_no_route_sends_a_client_elsewhere() -> None:
    client = TestClient(create_app(FakeFrontend(), ServerOptions()))
    reply = client.get("/generate/", follow_redirects=False, headers={"host": "elsewhere.example"})
    assert reply.status_code == 404 and "location" not in reply.headers
    assert reply.json()["error"]["type"] == "not_found_error"
