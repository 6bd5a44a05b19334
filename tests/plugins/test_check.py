from __future__ import annotations

import pytest

from sgcore.plugins.check import check_all

SOURCES = {
    "good": "from sgcore.api import WeightSource\nclass Source(WeightSource): ...\n",
    "raises": "raise OSError('no lib')\n",
    "exits": "import os\nos._exit(7)\n",
    "wrong": "class Source: ...\n",
    "slow": "import time\ntime.sleep(60)\n",
}


@pytest.fixture
def problems(site, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(site.folder))
    for name, source in SOURCES.items():
        site.install(f"p-{name}", {"sgcore.weights": {name: f"m_{name}:Source"}}, modules={f"m_{name}": source})
    site.install("p-new", {"sgcore.weights": {"new": "m:Source"}}, ["sgcore>=7"])
    site.plugin("p-hooks", "def sgcore_check(plan): ...\n")
    found = {entry.name: problem for entry, problem in check_all(site.installed().entries, limit_s=5)}
    return found


def test_each_plugin_is_loaded_alone_with_a_time_limit(problems):
    assert problems["good"] is None
    assert "OSError: no lib" in problems["raises"]
    assert problems["exits"] == "exit code 7"
    assert "no subclass of sgcore.api.WeightSource" in problems["wrong"]
    assert problems["slow"] == "did not load within 5 s"
    assert "needs sgcore>=7" in problems["new"]
    assert "not marked with @hookimpl" in problems["p-hooks"]
