from __future__ import annotations

import sys

import pytest

from sgcore.errors import LaunchError
from sgcore.plugins.manager import Hooks
from sgcore.plugins.observers import Observers

GOOD = """
    @hookimpl
    def sgcore_check(plan):
        return ["good"]
"""


def answers(hooks: Hooks) -> list[object]:
    return [answer.value for answer in hooks.all("sgcore_check", plan=None)]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ValueError('broken')", "ValueError: broken"),
        ("import not_there_at_all", "ModuleNotFoundError"),
        ("raise SystemExit('bye')", "SystemExit: bye"),
        ("def oops(:", "SyntaxError"),
        ("@hookimpl\ndef sgcore_no_such(plan): ...", "unknown hook sgcore_no_such"),
        ("@hookimpl\ndef sgcore_check(plan, extra): ...", "PluginValidationError"),
        ("@hookimpl(wrapper=True)\ndef sgcore_check(plan):\n    return (yield)", "wrapper"),
        ("@hookimpl(hookwrapper=True)\ndef sgcore_check(plan):\n    yield", "wrapper"),
        ("def sgcore_check(plan): ...", "not marked with @hookimpl"),
    ],
)
def test_a_broken_plugin_is_listed_and_the_others_answer(site, source, reason):
    site.plugin("p-bad", source)
    site.plugin("p-good", GOOD)
    hooks = site.hooks()
    assert answers(hooks) == [["good"]]
    (disabled,) = hooks.disabled
    assert disabled.name == "p-bad" and reason in disabled.reason


def test_an_incompatible_plugin_is_listed_and_not_imported(site):
    site.plugin("p-new", GOOD, ["sgcore>=7"])
    hooks = site.hooks()
    assert "needs sgcore>=7" in hooks.disabled[0].reason
    assert "p_new" not in sys.modules


def test_a_raising_hook_is_disabled_and_the_others_answer(site):
    site.plugin("p-a", GOOD)
    site.plugin("p-b", "@hookimpl\ndef sgcore_check(plan): raise KeyError('x')\n")
    site.plugin("p-c", GOOD)
    hooks = site.hooks()
    assert answers(hooks) == [["good"], ["good"]]
    assert "sgcore_check raised KeyError" in hooks.disabled[0].reason
    assert [entry.name for entry in hooks.active] == ["p-a", "p-c"]
    assert answers(hooks) == [["good"], ["good"]]
    assert len(hooks.disabled) == 1


@pytest.mark.parametrize("when", ["import", "call"])
def test_strict_raises_the_plugins_own_error(site, when):
    lines = {"import": "raise KeyError('x')", "call": "@hookimpl\ndef sgcore_check(plan): raise KeyError('x')"}
    site.plugin("p-bad", lines[when])
    with pytest.raises(KeyError):
        answers(site.hooks(strict_plugins=True))


@pytest.mark.parametrize("said", ["p-good", "P_Good"])
def test_a_disabled_plugin_is_not_imported(site, said):
    site.plugin("p-good", GOOD)
    hooks = site.hooks(disable_plugin=(said,))
    assert answers(hooks) == [] and "p_good" not in sys.modules
    assert hooks.disabled[0].reason == "--disable-plugin"


def test_disabling_what_is_not_there_is_a_usage_error(site):
    with pytest.raises(LaunchError, match="no such plugin") as caught:
        site.hooks(disable_plugin=("nobody",))
    assert caught.value.exit_code == 2


def test_first_stops_at_the_first_answer_in_order_of_name(site):
    site.plugin("p-a", "@hookimpl\ndef sgcore_select_weights(path): return None\n")
    site.plugin("p-b", "@hookimpl\ndef sgcore_select_weights(path): return 'b'\n")
    site.plugin("p-c", "@hookimpl\ndef sgcore_select_weights(path): raise AssertionError\n")
    hooks = site.hooks()
    answer = hooks.first("sgcore_select_weights", path=None)
    assert answer is not None and (answer.value, answer.distribution) == ("b", "p-b")
    assert hooks.disabled == []


def test_trylast_answers_last(site):
    site.plugin("p-a", "@hookimpl(trylast=True)\ndef sgcore_select_weights(path): return 'a'\n")
    site.plugin("p-b", "@hookimpl\ndef sgcore_select_weights(path): return 'b'\n")
    answer = site.hooks().first("sgcore_select_weights", path=None)
    assert answer is not None and answer.value == "b"


def test_an_implementation_may_leave_arguments_out(site):
    site.plugin("p-a", "@hookimpl\ndef sgcore_check(): return ['none needed']\n")
    assert answers(site.hooks()) == [["none needed"]]


def test_only_asks_the_plugins_that_are_named(site):
    for name in ("p-a", "p-b"):
        site.plugin(name, f"@hookimpl\ndef sgcore_add_routes(app): return {name!r}\n")
    hooks = site.hooks()
    assert [answer.value for answer in hooks.all("sgcore_add_routes", ["p-b"], app=None)] == ["p-b"]
    assert hooks.all("sgcore_add_routes", [], app=None) == []


def test_observers_see_every_summary_that_fits(site):
    site.plugin("p-a", "SEEN = []\n@hookimpl\ndef sgcore_request_finished(summary): SEEN.append(summary['n'])\n")
    observers = Observers(site.hooks())
    for number in range(50):
        observers.finished({"n": number})
    observers.close()
    assert list(range(50)) == sys.modules["p_a"].SEEN and observers.dropped == 0


def test_observers_drop_and_never_block(site):
    site.plugin("p-a",
        "import threading\nMAY_END = threading.Event()\n"
        "@hookimpl\ndef sgcore_request_finished(summary): MAY_END.wait()\n")  # fmt: skip
    observers = Observers(site.hooks(), limit=2)
    for number in range(20):
        observers.finished({"n": number})  # none of them has ended
    assert observers.dropped >= 17
    sys.modules["p_a"].MAY_END.set()
    observers.close()
