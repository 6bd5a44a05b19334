"""`sgcore doctor`: what is installed, what is disabled and why, and who decided what for a model."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from importlib.util import find_spec

from sgcore import __version__
from sgcore.cli_plugins import kind_of, print_table
from sgcore.config import Choices
from sgcore.errors import LaunchError
from sgcore.plugins.installed import Installed
from sgcore.plugins.manager import Hooks, load_hooks
from sgcore.plugins.offers import offered_platform
from sgcore.plugins.plan import Plan


def command(words: Sequence[str]) -> Callable[..., int]:
    """The function that cyclopts calls for `words`."""
    return doctor


def doctor(model: str | None = None) -> int:
    """Show what is installed, what is disabled and why, and what MODEL would run on and who decided it.

    Parameters
    ----------
    model
        Hugging Face folder, weights file or hub id.
    """
    installed = Installed.read()
    hooks = load_hooks(installed=installed)
    plan = None if model is None else _planned(model, hooks, installed)
    print(_verdict(model, plan, hooks, installed))
    print(f"sgcore {__version__}, Python {platform.python_version()}, {platform.platform()}")
    print(f"engine: {'installed' if find_spec('torch') else 'not installed (pip install sgcore[engine])'}")
    if isinstance(plan, Plan):
        _print_plan(plan)
    _print_platforms(hooks)
    _print_disabled(hooks, installed)
    print("\nInstalled")
    rows = [(kind_of(entry), entry.name, entry.provider) for entry in installed.entries if entry.is_compatible]
    print_table(("KIND", "NAME", "DISTRIBUTION"), rows)
    return plan.exit_code if isinstance(plan, LaunchError) else 0


def _planned(model: str, hooks: Hooks, installed: Installed) -> Plan | LaunchError:
    """What the model would run on, or why it can't."""
    from sgcore.plugins.resolve import resolve

    try:
        return resolve(Choices.of(model_path=model), installed=installed, hooks=hooks)
    except LaunchError as error:
        return error


def _verdict(model: str | None, plan: Plan | LaunchError | None, hooks: Hooks, installed: Installed) -> str:
    """One or two lines: whether it can serve, and if not, why and what to do."""
    if isinstance(plan, LaunchError):
        hint = f"\nhint: {plan.hint}" if plan.hint else ""
        return f"{model} can't be served: {plan}{hint}"
    if plan is not None:
        return f"{model} can be served: {plan.model.name} on {plan.platform.name}"
    try:
        name, _ = offered_platform(hooks, installed)
    except LaunchError as error:
        return f"No model can be served: {error}\nhint: {error.hint}"
    models = ", ".join(installed.names("sgcore.models")) or "none, which a plugin has to bring"
    return f"Models can be served on {name}; architectures: {models}"


def _print_platforms(hooks: Hooks) -> None:
    print("\nDevices present")
    for answer in hooks.all("sgcore_offer_platform"):
        fallback = ", fallback" if answer.value.is_fallback else ""
        print(f"{answer.value.name}: {answer.value.description} (from {answer.distribution}{fallback})")


def _print_disabled(hooks: Hooks, installed: Installed) -> None:
    reasons = [f"{plugin.name} ({plugin.distribution}): {plugin.reason}" for plugin in hooks.disabled]
    reasons += [
        f"{kind_of(entry)} {entry.name}: {entry.mismatch}"
        for entry in installed.entries
        if not entry.is_compatible and kind_of(entry) != "hooks"
    ]
    print("\nDisabled")
    print("\n".join(reasons) if reasons else "nothing")


def _print_plan(plan: Plan) -> None:
    print("\nPlan")
    rows = [(item.name, str(item.value), item.decided_by) for item in plan.decisions if item.decided_by != "default"]
    print_table(("WHAT", "VALUE", "DECIDED BY"), rows)
