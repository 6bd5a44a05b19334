"""The platform that computes nothing is a platform."""

from __future__ import annotations

from sgcore.testing.platforms import PlatformSuite
from sgcore_null.platform import NullPlatform


class TestNull(PlatformSuite):
    platform = NullPlatform
