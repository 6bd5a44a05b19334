"""Whose fault it was, by status."""

from __future__ import annotations

import pytest

from sgcore.server.errors import error_type


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "invalid_request_error"),
        (429, "rate_limit_error"),
        (499, "server_error"),
        (500, "server_error"),
        (503, "server_error"),
        (504, "server_error"),
    ],
)
def test_types(status: int, name: str) -> None:
    assert error_type(status) == name
