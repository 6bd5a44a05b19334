"""What `$ref`, `$dynamicRef`, `$anchor` and `$id` of a schema point to, all of it inside of the document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from sgcore.errors import ConstraintError

DATA = frozenset(("const", "enum", "default", "examples", "example"))
"""Keywords whose value is no schema."""


class References:
    """The places in a document that references name."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._named: dict[str, list[Any]] = {}
        """`$anchor`, `$dynamicAnchor` and `$id`, as a reference spells them."""
        for schema in _subschemas(root):
            for keyword, form in (("$anchor", "#{}"), ("$dynamicAnchor", "#{}"), ("$id", "{}")):
                if isinstance(name := schema.get(keyword), str):
                    self._named.setdefault(form.format(name.rstrip("#")), []).append(schema)

    def find(self, reference: Any) -> Any:
        """The schema that a reference names. Raises ConstraintError if there is none, or more than one."""
        found = self._named.get(reference, []) if isinstance(reference, str) else []
        if len(found) == 1:
            return found[0]
        if found:
            raise ConstraintError(f"$ref {reference[:200]!r} names more than one schema of the document")
        if isinstance(reference, str) and reference[:1] == "#":
            return self._at(reference)
        raise ConstraintError(f"$ref {str(reference)[:200]!r} is not in the document: put it under $defs")

    def _at(self, reference: str) -> Any:
        place = self._root
        for part in reference[1:].split("/")[1:]:
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(place, list) and key.isascii() and key.isdigit() and int(key) < len(place):
                place = place[int(key)]
            elif isinstance(place, dict) and key in place:
                place = place[key]
            else:
                raise ConstraintError(f"$ref {reference[:200]!r} leads nowhere: the document has no {key[:64]!r} there")
        if reference[1:2] not in ("", "/") or not isinstance(place, dict | bool):
            raise ConstraintError(f"$ref {reference[:200]!r} names no schema of the document")
        return place


def _subschemas(schema: Any) -> Iterator[dict[str, Any]]:
    """Every object of the document that may be a schema."""
    todo = [schema]
    while todo:
        found = todo.pop()
        if isinstance(found, dict):
            yield found
            todo += [value for key, value in found.items() if key not in DATA]
        elif isinstance(found, list):
            todo += found
