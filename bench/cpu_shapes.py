"""Decoding alone with the shapes of larger Llamas and random weights, as a share of what memory gives.

Each model is in a process of its own, one after the other.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import psutil
from ceiling import BITS, memory_read_gb_s, share, weight_bytes
from harness import OtherWork, arguments, median, report, wait_idle

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "hidden_act": "silu", "tie_word_embeddings": True,
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 1024,
    },
    "1b": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256,
    },
    "3b": {
        "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256,
    },
}  # fmt: skip
"""`1b` and `3b` are those of Llama 3.2."""
PROMPT = list(range(100, 116))
SETTLED_PERCENT = 5.0
SPARE_BYTES = 2 << 30
"""Beside the weights in float32, which are there before they are rounded."""


def needed_bytes(shape: dict[str, Any], form: str) -> int:
    """Of memory: weights as they are made, the embedding again where it is repacked, and the rounded ones."""
    rounded = 0 if form == "float32" else weight_bytes(shape, form)
    return weight_bytes(shape, "float32") + shape["hidden_size"] * shape["vocab_size"] * 4 + rounded + SPARE_BYTES


def measured(name: str, form: str, asked: Namespace) -> dict[str, Any]:
    shape = SHAPES[name]
    row: dict[str, Any] = {"shape": name, "weights": form, "token_mb": weight_bytes(shape, form) / 1e6}
    needed, free = needed_bytes(shape, form), psutil.virtual_memory().available
    if needed > free:
        print(f"{name}, {form}: skipped, it takes {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} are free")
        return row
    wait_idle(asked.idle_wait)
    with OtherWork() as other:
        flags = ["--worker", name, form, "--tokens", str(asked.tokens), "--repeats", str(asked.repeats)]
        done = subprocess.run([sys.executable, __file__, *flags], stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    shares = share(found["decode_tok_s"], weight_bytes(shape, form), found["memory_read_gb_s"])
    return {**row, **found, **shares, "other_cpu_percent": other.percent}


def worker(name: str, form: str, tokens: int, repeats: int) -> dict[str, float]:
    """One model in this process; memory is measured in the same breath."""
    from sgcore import Engine

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(LLAMA | SHAPES[name]))
        scheme = None if form == "float32" else form
        options = {"dtype": "float32", "quantization": scheme, "load_format": "dummy", "skip_tokenizer_init": True}
        limits = {"max_total_tokens": 1024, "max_running_requests": 4, "mem_fraction_static": 0.95}
        with Engine(model_path=folder, **options, **limits) as engine:
            start = time.perf_counter() - began
            wait_settled()
            rates, reads = [], []
            for _ in range(repeats):
                reads.append(memory_read_gb_s())
                first, last = (seconds(engine, count) for count in (1, tokens + 1))
                rates.append(tokens / (last - first))
    return {"start_s": start, "decode_tok_s": median(rates) or 0.0, "memory_read_gb_s": max(reads)}


def wait_settled() -> None:
    """Until weights have moved to where they are read fastest, which an engine without requests does."""
    process = psutil.Process()
    while process.cpu_percent(interval=1.0) > SETTLED_PERCENT:
        pass


def seconds(engine: Any, tokens: int) -> float:
    engine.flush_cache()
    began = time.perf_counter()
    engine.generate(input_ids=PROMPT, sampling_params={"temperature": 0, "max_new_tokens": tokens, "ignore_eos": True})
    return time.perf_counter() - began


def parse() -> Namespace:
    parser: ArgumentParser = arguments(__doc__)
    parser.add_argument("--shapes", default="1b,3b", type=lambda text: text.split(","), help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--weights", default=",".join(BITS), type=lambda text: text.split(","))
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--idle-wait", type=float, default=60.0, help="seconds to wait for an idle machine")
    parser.add_argument("--worker", nargs=2, metavar=("SHAPE", "WEIGHTS"), help="one model, in this process")
    return parser.parse_args()


def main() -> int:
    asked = parse()
    if asked.worker:
        print(json.dumps(worker(*asked.worker, asked.tokens, asked.repeats)))
        return 0
    rows = [measured(name, form, asked) for name in asked.shapes for form in asked.weights]
    report("cpu_shapes", {"Decoding alone, random weights": rows}, asked.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
