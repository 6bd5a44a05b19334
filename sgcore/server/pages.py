"""`docs/reference/routes.md` and `metrics.md`, written from the code: `python -m sgcore.server.pages FOLDER`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from sgcore.server.auth import OPEN_PATHS
from sgcore.server.fields import Ignored, UnsupportedOpenAI
from sgcore.server.metrics import COUNTERS, GAUGES, HISTOGRAMS
from sgcore.server.routes import ROUTES

NOTE = "<!-- Written by `python -m sgcore.server.pages docs/reference`; edit the text in `sgcore/server/`. -->"
ABOUT_ROUTES = """\
Bodies are JSON. Every refusal has the shape `{"error": {"message", "type", "param", "code"}}`: 400 for a wrong request
or a prompt that is too long, 401 for the key, 404 for another model, 413 for a large body, 415 for content that isn't
JSON, 429 for a full queue and 503 while starting or stopping (both with `Retry-After`), 500 with the request's id. An
error after a stream has begun is an event `data: {"error": ...}`; `data: [DONE]` follows success alone.

With `--api-key` every route but the probes asks for `Authorization: Bearer KEY`. `x-request-id` is echoed, or made up.
A client that disconnects ends its request. `/openapi.json` describes every field."""
ABOUT_FIELDS = """\
A field that a route doesn't know is refused with its name and `code: unknown_parameter`; nothing is passed over in
silence. A value that asks for nothing (`null`, `false`, an empty list) is as good as none. The `param` of a refusal is
the client's own name of the field.

These can't change an answer here, and are taken and ignored: {ignored}.

These would change the answer and aren't supported, so that they are refused when they ask for something: {refused}."""
ABOUT_METRICS = """\
`GET /metrics` in Prometheus's text format. Every metric has the label `model_name`. `--metrics-prefix` changes the
prefix: the names behind it are SGLang's, so that `--metrics-prefix sglang:` fits existing boards."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def routes_page() -> str:
    """Every route."""
    rows = [
        (
            ", ".join(f"`{path}`" for path in entry.paths),
            ", ".join(entry.methods),
            "no" if set(entry.paths) <= OPEN_PATHS else "yes",
            entry.summary,
        )
        for entry in ROUTES
    ]
    rows.append(("`/openapi.json`", "GET", "yes", "This table and every field, as OpenAPI 3.1."))
    routes = table(("Path", "Methods", "Key", "What"), rows)
    return "\n\n".join(["# Routes", NOTE, ABOUT_ROUTES, routes, "## Fields", fields()]) + "\n"


def fields() -> str:
    """Fields that are known and not acted upon."""
    ignored = Ignored.__struct_fields__
    refused = UnsupportedOpenAI.__struct_fields__[len(ignored) :]
    return ABOUT_FIELDS.format(ignored=_listed(ignored), refused=_listed(refused))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def metrics_page() -> str:
    """Every metric."""
    rows = [
        (f"`sgcore:{name}`", kind, text)
        for kind, group in (("gauge", GAUGES), ("counter", COUNTERS), ("histogram", HISTOGRAMS))
        for name, text in group.items()
    ]
    return "\n\n".join(["# Metrics", NOTE, ABOUT_METRICS, table(("Name", "Kind", "What"), rows)]) + "\n"


def main(folder: str) -> None:
    """Write both pages."""
    Path(folder, "routes.md").write_text(routes_page(), encoding="utf-8")
    Path(folder, "metrics.md").write_text(metrics_page(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
