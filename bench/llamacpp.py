"""llama.cpp as a peer: its own server, and the sample's weights in its formats, made by its own tool."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines import MODEL, Server
from harness import OUT

from sgcore.testing.sample import sample_model_path

FORMATS = {"f32": "F32", "q8_0": "Q8_0", "q4_1": "Q4_1"}
"""Ending of the engine's name -> llama.cpp's name of the weights' format."""
CONTEXT_TOKENS = 16384
"""Of all requests together: 32 of 384 tokens, with room for a conversation of 1,600."""
SLOTS = 32
VERSION = re.compile(r"version: (.+)")


def weights(tools: Path, kind: str) -> Path:
    """The sample as a GGUF file. Its own file is in Q4_1; float32 is that file's numbers, Q8_0 those rounded.

    So every format stands for the weights of `export_sample.py`, as near as it can. Raises SystemExit without a sample.
    """
    own = sample_model_path()
    if own is None:
        raise SystemExit("the sample model is not installed; `make setup` installs it")
    if kind == "q4_1":
        return own
    made = OUT / f"sample-{kind}.gguf"
    if not made.exists():
        source = own if kind == "f32" else weights(tools, "f32")
        unfinished = made.with_suffix(".part")
        command = [str(tools / "llama-quantize"), "--allow-requantize", str(source), str(unfinished), FORMATS[kind]]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        unfinished.replace(made)
    return made


class LlamaCpp(Server):
    """`llama-server` of the folder `tools`, with all cores and one cache for all its slots."""

    def __init__(self, tools: str | None, kind: str) -> None:
        self.tools, self.kind, self.name = tools and Path(tools), kind, f"llamacpp-{kind}"
        super().__init__(OUT)

    def version(self) -> str | None:
        if not self.tools or not (self.tools / "llama-server").exists():
            return None
        done = subprocess.run([self.tools / "llama-server", "--version"], capture_output=True, text=True)
        found = VERSION.search(done.stdout + done.stderr)
        return found.group(1) if found else None

    def command(self, port: int) -> list[str]:
        assert self.tools
        threads = str(os.cpu_count() or 1)
        model = ["--model", str(weights(self.tools, self.kind)), "--alias", MODEL]
        limits = ["-t", threads, "-tb", threads, "-np", str(SLOTS), "-kvu", "-c", str(CONTEXT_TOKENS)]
        address = ["--host", "127.0.0.1", "--port", str(port)]
        return [str(self.tools / "llama-server"), *model, *address, *limits]

    def token_bytes(self, config: Mapping[str, Any]) -> int | None:
        assert self.tools
        return weights(self.tools, self.kind).stat().st_size
