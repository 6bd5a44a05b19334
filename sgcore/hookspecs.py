"""Every question that the core asks its plugins, in the order of a server's start.

A plugin answers with functions of these names, marked `@hookimpl`, in the module that its entry point of the group
`sgcore.plugins` names. That module is imported in every launcher: keep it small and free of torch. All arguments are
optional for an implementation; hook wrappers are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pluggy import HookimplMarker, HookspecMarker

if TYPE_CHECKING:
    from sgcore.api import HfConfig, Model, ModelTraits, PlatformOffer
    from sgcore.plugins.plan import Plan

PROJECT = "sgcore"
hookspec = HookspecMarker(PROJECT)
hookimpl = HookimplMarker(PROJECT)


class OptionParser(Protocol):
    """Collects the options that plugins bring."""

    def add(self, name: str, default: str | int | float | bool | None, help: str) -> None:
        """Add `--name`; its type is the default's, `str` for None. Raises LaunchError for a name that is taken."""


@hookspec
def sgcore_add_options(parser: OptionParser) -> None:
    """Add options to the command line. Their values are in `Plan.options` under the names given here."""


@hookspec(firstresult=True)
def sgcore_select_weights(path: Path) -> str | None:
    """The weight source (entry point name) for a local folder or file, for `--load-format auto`; None: not mine."""


@hookspec(firstresult=True)
def sgcore_resolve_architecture(hf_config: HfConfig) -> str | None:
    """The model driver for a configuration whose `architectures[0]` is an alias; None: no opinion."""


@hookspec(firstresult=True)
def sgcore_fall_back(hf_config: HfConfig) -> str | None:
    """A model driver for any architecture, asked where no plugin offers `architectures[0]`; None: not this one."""


@hookspec
def sgcore_offer_platform() -> PlatformOffer | None:
    """A device that is present, found without initialising it. Two answers that are no fallback end the start."""


@hookspec(firstresult=True)
def sgcore_select_quantization(hf_config: HfConfig) -> str | None:
    """The quantization driver for a configuration whose `quant_method` isn't its name; None: no opinion."""


@hookspec(firstresult=True)
def sgcore_select_attention(platform: str, traits: ModelTraits) -> str | None:
    """The attention driver for a platform (entry point name) and a model's traits; None: the platform's default."""


@hookspec(firstresult=True)
def sgcore_select_tool_call_parser(chat_template: str) -> str | None:
    """The format (entry point name of `sgcore.parsers`) of a chat template's tool calls; None: not mine."""


@hookspec(firstresult=True)
def sgcore_select_reasoning_parser(chat_template: str) -> str | None:
    """The format (entry point name of `sgcore.parsers`) of a chat template's reasoning; None: not mine."""


@hookspec(firstresult=True)
def sgcore_select_grammar() -> str | None:
    """The grammar driver for structured output; None: not mine."""


@hookspec
def sgcore_default_options(plan: Plan) -> Mapping[str, Any] | None:
    """Values, by flat name, for options that the user left alone. Two different values for one end the start."""


@hookspec
def sgcore_check(plan: Plan) -> list[str] | None:
    """All reasons why this plan can't work, before a weight is read; each says what to do."""


@hookspec
def sgcore_engine_ready(plan: Plan) -> None:
    """The engine is about to load its model. Called in each worker."""


@hookspec
def sgcore_model_loaded(model: Model, plan: Plan) -> None:
    """The weights are on the device. Called in each worker."""


@hookspec
def sgcore_add_routes(app: Any) -> None:
    """Add HTTP routes to the Starlette application. Asked only of plugins that `--route-plugin` names."""


@hookspec
def sgcore_request_finished(summary: Mapping[str, Any]) -> None:
    """One request ended. Called off the serving thread from a bounded queue that drops when it is full."""


@hookspec
def sgcore_engine_stopping() -> None:
    """The engine is about to stop. Called once, in each worker."""
