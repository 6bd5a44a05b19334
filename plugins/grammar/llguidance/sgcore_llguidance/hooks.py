"""Offers itself as the grammar backend; another plugin's answer goes first."""

from __future__ import annotations

from sgcore import hookimpl


@hookimpl(trylast=True)
def sgcore_select_grammar() -> str | None:
    return "llguidance"
