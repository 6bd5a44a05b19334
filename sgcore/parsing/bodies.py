"""Bodies of calls that transformers reads when they have ended."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sgcore.parsing.formats import CALLS, Region


def read_calls(region: Region, text: str, body: str, tools: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Names and arguments in a region's text, of which `body` is what the delimiters enclose.

    None if it can't be read, for whatever reason, or not without loss.
    """
    from transformers.utils.chat_parsing import parse_response

    try:
        if _loses_text(region.spec, body):
            return []
        found = parse_response(text, region.template, prefix="", tools=[dict(tool) for tool in tools])[CALLS]
        functions = [call["function"] for call in (found if isinstance(found, list) else [found])]
        return [(str(function["name"]), _dumped(function["arguments"])) for function in functions]
    except Exception:
        return []


def _dumped(arguments: Any) -> str:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    text.encode()  # half a surrogate pair, which JSON can spell, has no UTF-8
    return text


def _loses_text(spec: Mapping[str, Any], body: str) -> bool:
    """Whether transformers' parser of this kind of body would pass over some of it, or keep one of two values."""
    arguments = spec.get("content_args", {})
    if spec.get("content") == "xml-inline":
        return _loses_tags(arguments, body)
    return spec.get("content") == "kv-lines" and _loses_lines(arguments, body)


def _loses_tags(arguments: Mapping[str, Any], body: str) -> bool:
    import regex

    tags = regex.compile(arguments["tag_pattern"], regex.DOTALL)
    keys = [match["key"] for match in tags.finditer(body)]
    return bool(tags.sub("", body).strip()) or (len(set(keys)) < len(keys) and not arguments.get("merge_duplicates"))


def _loses_lines(arguments: Mapping[str, Any], body: str) -> bool:
    lines = [line for line in body.split(arguments.get("line_sep", "\n")) if line.strip()]
    parts = [line.partition(arguments.get("kv_sep", ":")) for line in lines]
    keys = {key.strip() for key, separator, _ in parts if separator}
    return len(keys) < len(lines)
