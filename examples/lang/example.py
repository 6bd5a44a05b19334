"""What the examples share: where to find a model."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import sgcore_lang as sgl


def main(show: Callable[[], None], doc: str | None) -> None:
    """Run an example on a server, or on a model in this process."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--base-url", default="http://127.0.0.1:30000", help="a running server")
    parser.add_argument("--model", help="a checkpoint to load in this process instead")
    asked = parser.parse_args()
    backend: Any = sgl.Engine(model_path=asked.model) if asked.model else sgl.RuntimeEndpoint(asked.base_url)
    sgl.set_default_backend(backend)
    show()
