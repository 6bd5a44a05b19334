"""Settings of the whole process, and the backend of programs that name none."""

from __future__ import annotations

from typing import Any

from sgcore_lang.backend import Backend


class GlobalConfig:
    """What holds for every program of this process. Assigning a name that it doesn't have raises AttributeError."""

    __slots__ = (
        "_backend",
        "enable_parallel_encoding",
        "enable_precache_with_tracing",
        "skip_special_tokens_in_output",
        "spaces_between_special_tokens_in_out",
        "verbosity",
    )

    def __init__(self) -> None:
        self._backend: Backend | None = None
        self.verbosity = 0
        """2: print the whole text after every run."""
        self.skip_special_tokens_in_output = True
        self.spaces_between_special_tokens_in_out = True
        self.enable_precache_with_tracing = True
        """Whether a batch has the constant beginning of its program computed before its runs."""
        self.enable_parallel_encoding = True
        """SGLang's, and has no meaning here: the texts of forks are always joined as one text would be computed."""

    @property
    def default_backend(self) -> Backend | None:
        """The backend of every run that names none."""
        return self._backend

    @default_backend.setter
    def default_backend(self, backend: Any) -> None:
        self._backend = None if backend is None else backend_of(backend)

    def sampling(self) -> dict[str, bool]:
        """What differs from a server's own defaults, in its words."""
        said = {
            "skip_special_tokens": self.skip_special_tokens_in_output,
            "spaces_between_special_tokens": self.spaces_between_special_tokens_in_out,
        }
        return {name: value for name, value in said.items() if not value}


def set_default_backend(backend: Any) -> None:
    """The backend of every run that names none: a backend, a `Runtime`, or an `Engine` of this process."""
    global_config.default_backend = backend_of(backend)


def backend_or_default(backend: Any = None) -> Backend:
    """The backend that was given, or the default one. Raises ValueError if there is neither."""
    if backend is not None:
        return backend_of(backend)
    if global_config.default_backend is None:
        raise ValueError("no backend: give one with run(backend=...) or set_default_backend(...)")
    return global_config.default_backend


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


global_config = GlobalConfig()
