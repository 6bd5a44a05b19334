"""Write the sample model as a Hugging Face folder in float32, so that every engine loads identical weights."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from harness import OUT

FOLDER = OUT / "SmolLM2-135M-Instruct"
DTYPE = "float32"


def exported(folder: Path = FOLDER) -> Path:
    """The folder, written if it isn't there. Raises SystemExit where the sample isn't installed."""
    if not (folder / "tokenizer.json").exists():
        export(folder)
    return folder


def export(folder: Path) -> None:
    """Weights and configuration first, the tokenizer last: its file says that the folder is whole."""
    from safetensors.torch import save_file

    from sgcore.testing.sample import sample_model_path
    from sgcore_gguf.source import GGUFSource

    path = sample_model_path()
    if path is None:
        raise SystemExit("the sample model is not installed; `make setup` installs it")
    source = GGUFSource(path)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.float().contiguous() for name, tensor in source.tensors()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _write(folder / "config.json", source.hf_config() | {"dtype": DTYPE})
    _write(folder / "generation_config.json", source.generation_config())
    source.tokenizer().save_pretrained(folder)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def check(folder: Path) -> dict[str, Any]:
    """What transformers says about the folder: keys that are missing or too many, and how an answer begins."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.inference_mode():
        following = tokenizer.decode(model(ids).logits[0, -1].argmax())
    keys = ("missing_keys", "unexpected_keys", "mismatched_keys")
    return {key: sorted(info[key]) for key in keys} | {"dtype": str(model.dtype), "following": following}


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    asked = parser.parse_args()
    export(asked.folder)
    found = check(asked.folder)
    for key, value in found.items():
        print(f"{key}: {value}")
    print(f"written to {asked.folder}")
    return 1 if any(found[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")) else 0


if __name__ == "__main__":
    sys.exit(main())
