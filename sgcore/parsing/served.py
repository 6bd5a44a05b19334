"""The format that a server parses answers by."""

from __future__ import annotations

from typing import Any

from sgcore.api import ResponseFormat
from sgcore.errors import LaunchError
from sgcore.parsing.formats import Format, compiled, joined_format
from sgcore.plugins import drivers
from sgcore.plugins.plan import Driver, Plan

AUTO = "auto"


def served_format(plan: Plan, tokenizer: Any) -> Format | None:
    """The plan's formats, or the one that the tokenizer carries, as one; None: answers are content.

    Raises LaunchError for a format that is broken, or that lacks what it was chosen for.
    """
    own = None if tokenizer is None else tokenizer.response_template
    carried = compiled(ResponseFormat(own), "the tokenizer") if own else None
    model = plan.choices.model
    calls = _chosen(plan.tool_call_parser) or (carried if model.tool_call_parser == AUTO else None)
    reasoning = _chosen(plan.reasoning_parser) or (carried if model.reasoning_parser == AUTO else None)
    if plan.tool_call_parser and calls and not calls.has_calls:
        raise _lacks(plan.tool_call_parser, "tool calls")
    if plan.reasoning_parser and reasoning and not reasoning.has_reasoning:
        raise _lacks(plan.reasoning_parser, "reasoning")
    return joined_format(calls, reasoning)


def _chosen(driver: Driver | None) -> Format | None:
    return None if driver is None else compiled(drivers.load(driver), f"the format {driver.name!r}")


def _lacks(driver: Driver, what: str) -> LaunchError:
    return LaunchError(f"the format {driver.name!r} ({driver.distribution}) describes no {what}", "choose another", 2)
