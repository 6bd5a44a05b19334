"""`sgcore serve`: flags, environment and configuration file become `Choices`, then a plan, then a server."""

from __future__ import annotations

import inspect
import itertools
import sys
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter
from pydantic.fields import FieldInfo

from sgcore.cli_values import Layers, read_config
from sgcore.config import Choices, PluginOptions
from sgcore.plugins.manager import load_hooks
from sgcore.plugins.plan import Plan
from sgcore.plugins.resolve import resolve_aloud
from sgcore.plugins.settings import PluginOptionParser

if TYPE_CHECKING:
    from sgcore.engine.client import CoreProcess

ALIASES = {
    "model_path": ("--model",),
    "tokenizer_path": ("--tokenizer",),
    "preferred_sampling_params": ("--override-generation-config",),
    "context_length": ("--max-model-len",),
    "platform": ("--device",),
    "mem_fraction_static": ("--gpu-memory-utilization",),
    "page_size": ("--block-size",),
    "random_seed": ("--seed",),
    "max_running_requests": ("--max-num-seqs",),
    "chunked_prefill_size": ("--max-num-batched-tokens",),
    "schedule_policy": ("--scheduling-policy",),
}
"""Other names that people's scripts use for the same thing."""
HIDDEN = ("plugin_options",)
"""Options without a flag."""


def command(words: Sequence[str]) -> Callable[..., int]:
    """The function that cyclopts calls for `words`, with one parameter an option, those that plugins add included."""
    parser = PluginOptionParser()
    load_hooks(_disabled(words)).all("sgcore_add_options", parser=parser)

    def serve(*values: Any, **named: Any) -> int:
        """Serve MODEL over HTTP: a Hugging Face folder, a weights file, or a hub id.

        Example: `sgcore serve path/to/checkpoint --port 30000 --served-model-name mine`
        """
        bound = signature.bind(*values, **named)
        return _serve(bound.arguments, parser)

    signature = inspect.Signature([*_own(), *_flags(), *_plugin_flags(parser)])
    vars(serve)["__signature__"] = signature
    serve.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    return serve


def _disabled(words: Sequence[str]) -> PluginOptions:
    """`--disable-plugin` before the other flags are known, since a disabled plugin isn't even imported."""
    flag = "--disable-plugin"
    after = [value for word, value in itertools.pairwise(words) if word == flag]
    joined = [word.removeprefix(f"{flag}=") for word in words if word.startswith(f"{flag}=")]
    return PluginOptions(disable_plugin=(*after, *joined))


def _serve(flags: dict[str, Any], parser: PluginOptionParser) -> int:
    config, is_explaining = flags.pop("config", None), flags.pop("explain", False)
    layers = Layers(parser)
    if config is not None:
        layers.add(read_config(config), f"{config}: {{name}}", "_")
    layers.add_environment()
    layers.add({name: value for name, value in flags.items() if value is not None}, "--{name}", "-")
    if is_explaining:
        return _explain(resolve_aloud(layers.choices(), layers.origins))
    plan, core = _resolved(layers)
    try:
        from sgcore.server.launch import serve

        return serve(plan, core)
    finally:
        core.close()


def _resolved(layers: Layers) -> tuple[Plan, CoreProcess]:
    """The plan, by the process that will compute; this one loads what it serves with meanwhile."""
    from sgcore.engine.client import start_planning_core

    threading.Thread(target=import_module, args=("sgcore.server.launch",), daemon=True).start()
    return start_planning_core(layers.choices(), layers.origins)


def _explain(plan: Plan) -> int:
    """Print every resolved value and who set it."""
    rows = [(decision.name, str(decision.value), decision.decided_by) for decision in plan.decisions]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, by in rows:
        sys.stdout.write(f"{name:<{widths[0]}}  {value:<{min(widths[1], 48)}}  {by}\n")
    return 0


def _own() -> list[inspect.Parameter]:
    """The parameters of the command itself; the model comes first, since it may be given without a flag."""
    model = Choices.model_fields["model"].annotation
    first = _parameter("model_path", model.model_fields["model_path"], "Model")  # type: ignore[union-attr]
    group = Group("Command", sort_key=9)
    texts = {
        "config": (Path | None, "YAML, TOML or JSON file of options by their long names."),
        "explain": (bool, "Print every resolved value and the rule that set it, and exit."),
    }
    own = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False if kind is bool else None,
            annotation=Annotated[kind, Parameter(help=text, group=group, negative="", show_default=False)],
        )
        for name, (kind, text) in texts.items()
    ]
    return [first.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD), *own]


def _flags() -> list[inspect.Parameter]:
    parameters = []
    for group, info in Choices.model_fields.items():
        for name, field in info.annotation.model_fields.items():  # type: ignore[union-attr]
            if name not in HIDDEN and name != "model_path":
                parameters.append(_parameter(name, field, group.capitalize()))
    return parameters


def _parameter(name: str, field: FieldInfo, group: str) -> inspect.Parameter:
    """One flag. Its default is None, "not said"; the real default is in the help text."""
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    text = field.description or ""
    if default is not None and default != () and default is not False:
        text += f" \\[default: {default}]"
    return _flag(name, field.annotation, text, group)


def _plugin_flags(parser: PluginOptionParser) -> list[inspect.Parameter]:
    return [
        _flag(name, str if default is None else type(default), help, "Plugins")
        for name, (default, help) in parser.options.items()
    ]


def _flag(name: str, kind: Any, text: str, group: str) -> inspect.Parameter:
    names = (f"--{name.replace('_', '-')}", *ALIASES.get(name, ()))
    about = Parameter(name=names, help=text, group=group, show_default=False, negative_iterable="")
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, about]
    )
