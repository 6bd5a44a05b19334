"""The pages of routes and metrics, and `/openapi.json`, say what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from sgcore.server.metrics import NAMES
from sgcore.server.pages import metrics_page, routes_page
from sgcore.server.routes import ROUTES

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize(("name", "page"), [("routes.md", routes_page), ("metrics.md", metrics_page)])
def test_pages_are_up_to_date(name: str, page: Any) -> None:
    assert (REFERENCE / name).read_text() == page(), "run: python -m sgcore.server.pages docs/reference"


def test_pages_have_every_name() -> None:
    routes, metrics = (REFERENCE / "routes.md").read_text(), (REFERENCE / "metrics.md").read_text()
    assert {path for entry in ROUTES for path in entry.paths} <= set(re.findall(r"`(/[^`]*)`", routes))
    assert set(NAMES) <= set(re.findall(r"`sgcore:(\w+)`", metrics))


def test_openapi_has_every_route(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    paths = {path.replace(":path", "") for entry in ROUTES for path in entry.paths}
    assert set(document["paths"]) == paths
    ids = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(ids) == len(set(ids))
    schema = document["components"]["schemas"]["ChatRequest"]
    assert "messages" in schema["required"] and "top_k" in schema["properties"]


def test_every_endpoint_has_a_summary() -> None:
    assert all(entry.summary.endswith(".") for entry in ROUTES)
