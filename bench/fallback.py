"""A model through transformers' code against the plugin made for it: the same random weights, prompts and engine.

Each pass times one against the other, alternating, and the best of the passes counts. Decode is the time of a token
behind the first, for all rows; prefill is the time to the first token of a prompt that is in no cache.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import OtherWork, arguments, report
from transformers import LlamaConfig

from sgcore import Engine
from sgcore.testing.checkpoints import write_checkpoint

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": dict(vocab_size=4096, hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=8,
                 num_key_value_heads=4),
    "sample": dict(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
                   num_attention_heads=9, num_key_value_heads=3),
    "1b": dict(vocab_size=32000, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
               num_attention_heads=32, num_key_value_heads=8),
}  # fmt: skip
IMPLEMENTATIONS = {"native": None, "fallback": "transformers"}
PROMPT, DECODE_PROMPT, DECODE = 512, 64, 32
ROWS = (1, 16)


def prompts(rows: int, tokens: int, seed: int) -> list[list[int]]:
    """Rows that have nothing in common, with any other seed's neither."""
    draw = random.Random(seed)
    return [[draw.randrange(2, 4000) for _ in range(tokens)] for _ in range(rows)]


def seconds(engine: Engine, ids: list[list[int]], count: int) -> tuple[float, Any]:
    """Time for `count` tokens behind each prompt, and the tokens."""
    engine.flush_cache()
    began = time.perf_counter()
    replies = engine.generate(
        input_ids=ids, sampling_params={"temperature": 0.0, "max_new_tokens": count, "ignore_eos": True}
    )
    return time.perf_counter() - began, [reply["output_ids"] for reply in replies]


def measured(engine: Engine, seed: int) -> tuple[dict[str, float], Any]:
    """Milliseconds of each workload, and all tokens."""
    took, tokens = seconds(engine, prompts(1, PROMPT, seed), 1)
    times, all_tokens = {f"prefill of {PROMPT}": took * 1e3}, [tokens]
    for rows in ROWS:
        ids = prompts(rows, DECODE_PROMPT, seed)
        first, _ = seconds(engine, ids, 1)
        whole, tokens = seconds(engine, ids, 1 + DECODE)
        times[f"decode, {rows} rows"] = (whole - first) / DECODE * 1e3
        all_tokens.append(tokens)
    return times, all_tokens


def compare(folder: Path, passes: int, threads: int | None, dtype: str) -> list[dict[str, Any]]:
    """A row a workload: the best milliseconds of both, and how fast the fallback is of native."""
    best: dict[str, dict[str, float]] = {name: {} for name in IMPLEMENTATIONS}
    own = {"skip_tokenizer_init": True, "dtype": dtype, "max_total_tokens": 8192, "max_running_requests": 16}
    engines = {
        name: Engine(model_path=str(folder), model_impl=impl, threads=threads, **own)
        for name, impl in IMPLEMENTATIONS.items()
    }
    agree = True
    for seed in range(passes + 1):
        tokens = {}
        for name, engine in engines.items():
            times, tokens[name] = measured(engine, seed)
            if seed:  # the first pass warms up
                best[name] = {what: min(ms, best[name].get(what, ms)) for what, ms in times.items()}
        agree &= tokens["native"] == tokens["fallback"]
    for engine in engines.values():
        engine.shutdown()
    return [
        {
            "work": what,
            "native_ms": native,
            "fallback_ms": best["fallback"][what],
            "speed": native / best["fallback"][what],
            "same_tokens": agree,
        }
        for what, native in best["native"].items()
    ]


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--passes", type=int, default=4)
    parser.add_argument("--threads", type=int, help="one is steadier where others use the machine")
    parser.add_argument("--dtype", default="float32")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, OtherWork():
        write_checkpoint(LlamaConfig(**SHAPES[asked.shape], max_position_embeddings=2048), Path(folder), std=0.05)
        rows = compare(Path(folder), asked.passes, asked.threads, asked.dtype)
    report("fallback", {f"Shape {asked.shape}": rows}, asked.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
