"""What was decided, by whom, and nothing that can change: the record that workers start from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from sgcore.config import Choices


@dataclass(frozen=True)
class Driver:
    """One decided driver: enough to import exactly this and search nothing."""

    kind: str
    name: str
    target: str
    """`module:attribute`."""
    distribution: str
    version: str

    def load(self) -> Any:
        """Import the target. The driver's own error is raised unchanged."""
        from importlib import import_module

        module, _, attribute = self.target.partition(":")
        loaded: Any = import_module(module)
        for part in attribute.split("."):
            loaded = getattr(loaded, part)
        return loaded


@dataclass(frozen=True)
class Decision:
    """One resolved value and the rule or plugin that set it."""

    name: str
    value: Any
    decided_by: str


@dataclass(frozen=True)
class Plan:
    """Everything decided before a weight is read."""

    choices: Choices
    model_path: str
    """A local folder or file; a hub id has been fetched."""
    hf_config: Mapping[str, Any]
    model: Driver
    platform: Driver
    attention: Driver
    source: Driver
    quantization: Driver | None
    dtype: str
    context_tokens: int
    options: Mapping[str, Any]
    """Every option by flat name, after defaults that plugins gave."""
    decisions: tuple[Decision, ...]
    tool_call_parser: Driver | None = None
    reasoning_parser: Driver | None = None
    grammar: Driver | None = None

    @property
    def path(self) -> Path:
        """`model_path` as a path."""
        return Path(self.model_path)

    def to_json(self) -> str:
        """The plan as JSON, without the API key: enough for an engine process, not for a server."""
        record = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in _DRIVERS:
            record[name] = None if record[name] is None else asdict(record[name])
        record["decisions"] = [asdict(decision) for decision in self.decisions]
        record["choices"] = self.choices.model_dump(exclude={"server": {"api_key"}}, exclude_unset=True)
        return json.dumps(record)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` wrote."""
        record = json.loads(text)
        for name in _DRIVERS:
            record[name] = None if record[name] is None else Driver(**record[name])
        record["decisions"] = tuple(Decision(**decision) for decision in record["decisions"])
        record["choices"] = Choices.model_validate(record["choices"])
        return cls(**record)


_DRIVERS = (
    "model", "platform", "attention", "source", "quantization", "tool_call_parser", "reasoning_parser", "grammar",
)  # fmt: skip
