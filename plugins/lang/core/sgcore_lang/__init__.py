"""Programs that call a language model: `import sgcore_lang as sgl`.

Words (`sgl.gen`, `sgl.select`, ...) and backends (`sgl.RuntimeEndpoint`, ...) are plugins: `sgl.NAME` is whatever
installed distribution provides it, imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sgcore_lang import registry

_HOMES = {
    "AsyncProgramState": "state",
    "Backend": "backend",
    "BackendError": "errors",
    "NotSupported": "errors",
    "ProgramError": "errors",
    "ProgramState": "state",
    "Runtime": "runtime",
    "SglFunction": "program",
    "function": "program",
    "global_config": "default",
    "set_default_backend": "default",
    "flush_cache": "commands",
    "get_server_info": "commands",
    **dict.fromkeys(
        (f"{role}{part}" for role in ("system", "user", "assistant") for part in ("", "_begin", "_end")), "roles"
    ),
}
"""Name -> module of this package."""
_METHODS = ("token_length_normalized", "greedy_token_selection", "unconditional_likelihood_normalized")
"""Values of `choices_method`, as names: `sgl.greedy_token_selection`."""
__all__ = sorted({*_HOMES, *_METHODS, "Engine"})


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"sgcore_lang.{_HOMES[name]}"), name)
    if name in _METHODS:
        return name
    if name == "Engine":
        return import_module("sgcore").Engine
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return registry.backend(name) if name in registry.backends() else registry.word(name)


def __dir__() -> list[str]:
    return sorted({*__all__, *registry.names()})
