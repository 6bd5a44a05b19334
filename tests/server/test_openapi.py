"""Hundreds of requests made from our own `/openapi.json`: no 500, and every answer as described."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS

from sgcore.config import ServerOptions
from sgcore.server.app import create_app
from tests.server.fake import FakeFrontend

schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(FakeFrontend(), ServerOptions()))
TOO_STRICT = [check for check in CHECKS.get_all() if check.__name__ == "positive_data_acceptance"]
"""The schema can't say "exactly one of these fields"."""


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_answers_are_as_described(case: schemathesis.Case) -> None:
    case.call_and_validate(excluded_checks=TOO_STRICT)
