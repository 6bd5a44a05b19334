from __future__ import annotations

import sys

import pytest

from sgcore.plugins.installed import Installed


def test_entries_are_read_without_importing(site):
    site.install("p-one", {"sgcore.models": {"Made": "p_one:Made"}}, modules={"p_one": "raise RuntimeError"})
    (entry,) = site.installed().entries
    assert (entry.group, entry.name, entry.target, entry.provider) == (
        "sgcore.models", "Made", "p_one:Made", "p-one 1.0",
    )  # fmt: skip
    assert "p_one" not in sys.modules


@pytest.mark.parametrize(
    ("requires", "is_compatible"),
    [
        ([], True),
        (["sgcore>=0.1,<0.2"], True),
        (["SGCore>=0.1"], True),
        (["sgcore>=7"], False),
        (["sgcore<0.1"], False),
        (["sgcore>=0.1", "sgcore<0.1"], False),
        (["sgcore>=7; extra == 'later'"], True),
        (["sgcore-other>=7"], True),
        (["not a requirement !!", "sgcore>=7"], False),
    ],
)
def test_compatibility_follows_the_requirement_on_sgcore(site, requires, is_compatible):
    site.install("p-one", {"sgcore.models": {"Made": "p_one:Made"}}, requires)
    (entry,) = site.installed().entries
    assert entry.is_compatible is is_compatible
    assert is_compatible or "needs sgcore" in entry.mismatch


def test_other_groups_are_not_ours(site):
    site.install("p-one", {"console_scripts": {"x": "p_one:x"}, "sgcorex": {"y": "p_one:y"}})
    assert site.installed().entries == ()


def test_names_are_sorted_and_leave_out_what_is_incompatible(site):
    site.install("p-one", {"sgcore.models": {"B": "a:b", "A": "a:a"}})
    site.install("p-two", {"sgcore.models": {"C": "a:c"}}, ["sgcore>=7"])
    assert site.installed().names("sgcore.models") == ["A", "B"]


def test_the_first_of_two_copies_of_a_distribution_counts(site, tmp_path, monkeypatch):
    site.install("p-one", {"sgcore.models": {"Old": "a:a"}})
    other = type(site)(tmp_path / "other")
    other.folder.mkdir()
    monkeypatch.syspath_prepend(str(other.folder))
    other.install("P_One", {"sgcore.models": {"New": "a:a"}}, version="2.0")
    ours = [entry for entry in Installed.read().entries if entry.distribution in ("p-one", "P_One")]
    assert [(entry.name, entry.version) for entry in ours] == [("New", "2.0")]
