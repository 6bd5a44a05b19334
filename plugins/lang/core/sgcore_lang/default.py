"""The backend of programs that name none."""

from __future__ import annotations

from typing import Any

from sgcore_lang.backend import Backend

_default: Backend | None = None


def set_default_backend(backend: Any) -> None:
    """The backend of every run that names none: a backend, a `Runtime`, or an `Engine` of this process."""
    global _default
    _default = backend_of(backend)


def backend_or_default(backend: Any = None) -> Backend:
    """The backend that was given, or the default one. Raises ValueError if there is neither."""
    if backend is not None:
        return backend_of(backend)
    if _default is None:
        raise ValueError("no backend: give one with run(backend=...) or set_default_backend(...)")
    return _default


def backend_of(value: Any) -> Backend:
    """A backend as it is, a runtime's endpoint, or an engine of this process as one. Raises TypeError for another."""
    if isinstance(value, Backend):
        return value
    if isinstance(getattr(value, "endpoint", None), Backend):
        return value.endpoint  # type: ignore[no-any-return]
    if hasattr(value, "async_generate") and hasattr(value, "chat_turns"):
        from sgcore_lang.backends.engine import InProcess

        return InProcess(value)
    raise TypeError(f"expected a backend, a Runtime or an Engine, got {type(value).__name__}")
