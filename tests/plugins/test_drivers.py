from __future__ import annotations

import dataclasses
import inspect
import sys
from pathlib import Path

import pytest

import sgcore.api
from sgcore.errors import LaunchError
from sgcore.plugins import drivers

SOURCE = """
    from sgcore.api import WeightSource

    class Source(WeightSource):
        pass
"""


def test_find_imports_nothing(site):
    site.install("p-one", {"sgcore.weights": {"made": "p_one:Source"}}, modules={"p_one": "raise RuntimeError"})
    driver = drivers.find("weights", "made", site.installed())
    assert (driver.kind, driver.name, driver.target, driver.distribution, driver.version) == (
        "weights", "made", "p_one:Source", "p-one", "1.0",
    )  # fmt: skip
    assert "p_one" not in sys.modules


def test_two_distributions_with_one_name_are_an_error_that_names_both(site):
    for name in ("p-one", "p-two"):
        site.install(name, {"sgcore.weights": {"made": "m:Source"}})
    with pytest.raises(LaunchError, match="p-one and p-two") as caught:
        drivers.find("weights", "made", site.installed())
    assert "--prefer made=p-one" in caught.value.hint


@pytest.mark.parametrize(("said", "expected"), [("p-one", "p-one"), ("P_Two", "p-two")])
def test_prefer_ends_a_conflict(site, said, expected):
    for name in ("p-one", "p-two"):
        site.install(name, {"sgcore.weights": {"made": "m:Source"}})
    assert drivers.find("weights", "made", site.installed(), [f"made={said}"]).distribution == expected


@pytest.mark.parametrize("said", ["made=p-three", "other=p-one"])
def test_prefer_that_names_neither_leaves_the_conflict(site, said):
    for name in ("p-one", "p-two"):
        site.install(name, {"sgcore.weights": {"made": "m:Source"}})
    with pytest.raises(LaunchError, match="p-one and p-two"):
        drivers.find("weights", "made", site.installed(), [said])


@pytest.mark.parametrize("said", ["made", "=p-one", "made="])
def test_prefer_of_another_form_is_a_usage_error(said):
    with pytest.raises(LaunchError, match="NAME=DISTRIBUTION") as caught:
        drivers.preferred([said], "made")
    assert caught.value.exit_code == 2


def test_an_incompatible_distribution_is_no_conflict(site):
    site.install("p-one", {"sgcore.weights": {"made": "m:Source"}})
    site.install("p-two", {"sgcore.weights": {"made": "m:Source"}}, ["sgcore>=7"])
    assert drivers.find("weights", "made", site.installed()).distribution == "p-one"


def test_only_an_incompatible_distribution_says_which_version_it_needs(site):
    site.install("p-two", {"sgcore.weights": {"made": "m:Source"}}, ["sgcore>=7"])
    with pytest.raises(LaunchError, match=r"p-two 1.0 needs sgcore>=7"):
        drivers.find("weights", "made", site.installed())


def test_an_unknown_name_says_what_is_installed(site):
    site.install("p-one", {"sgcore.weights": {"made": "m:Source"}})
    with pytest.raises(LaunchError, match="no installed plugin provides the weights 'other'; installed: made"):
        drivers.find("weights", "other", site.installed())


def test_load_returns_the_class(site):
    site.install("p-one", {"sgcore.weights": {"made": "p_one:Source"}}, modules={"p_one": SOURCE})
    loaded = drivers.load(drivers.find("weights", "made", site.installed()))
    assert loaded.__name__ == "Source"


def test_a_drivers_own_error_is_shown_and_kept(site):
    site.install("p-one", {"sgcore.weights": {"made": "p_one:Source"}}, modules={"p_one": "raise OSError('no lib')"})
    with pytest.raises(LaunchError, match="OSError: no lib") as caught:
        drivers.load(drivers.find("weights", "made", site.installed()))
    assert isinstance(caught.value.__cause__, OSError)


def test_a_missing_engine_says_how_to_install_it(site):
    source = "raise ModuleNotFoundError('no torch', name='torch')"
    site.install("p-one", {"sgcore.weights": {"made": "p_one:Source"}}, modules={"p_one": source})
    with pytest.raises(LaunchError) as caught:
        drivers.load(drivers.find("weights", "made", site.installed()))
    assert "sgcore[engine]" in caught.value.hint


def test_a_driver_of_another_kind_is_refused(site):
    site.install("p-one", {"sgcore.models": {"made": "p_one:Source"}}, modules={"p_one": SOURCE})
    with pytest.raises(LaunchError, match="no subclass of sgcore"):
        drivers.load(drivers.find("model", "made", site.installed()))


@pytest.mark.parametrize("kind", drivers.KINDS.values(), ids=lambda kind: kind.name)
def test_every_kind_has_its_abstract_class(kind):
    contract = getattr(sgcore.api, kind.contract)
    assert inspect.isabstract(contract) or dataclasses.is_dataclass(contract), "a record is plain data"


@pytest.mark.parametrize("kind", drivers.KINDS)
def test_the_page_says_how_every_kind_is_chosen(kind):
    page = Path(__file__).resolve().parents[2] / "docs" / "reference" / "drivers.md"
    rules = page.read_text().partition("| kind | 1 |")[2]
    assert f"\n| {kind} | " in rules
