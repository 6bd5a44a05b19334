"""Structured output: 200 schemas, time to compile, what constrained rows cost a batch, what forced tokens save.

Without --shape the sample model answers; with it random weights of that shape, and the sample's tokenizer filled up to
the shape's vocabulary. Any platform; see README.md.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jsonschema
from harness import arguments, report
from offline import model_dir
from schemas import keywords, schemas
from tokenizers import Tokenizer

from sgcore.api import Constraint
from sgcore.config import Choices
from sgcore.constraints.compiler import Compiler
from sgcore.engine.core import EngineCore
from sgcore.engine.messages import FromCore, Output, Outputs, Request, SamplingParams, ToCore, Vocabulary
from sgcore.errors import ConstraintError
from sgcore.plugins.plan import Plan
from sgcore.plugins.resolve import resolve
from sgcore.testing.sample import sample_model_path

MOST_TOKENS = 160
FORMATS = frozenset("date-time time date duration email hostname ipv4 ipv6 uuid uri".split())
"""Others are annotations."""
WARM_STEPS = 8
BATCH = 64
ENDLESS = {"type": "array", "items": {"type": "integer"}, "minItems": 4000}
"""Of its tokens next to none is forced."""
LONG_KEYS = [
    f"the {place} property of the object that describes the customer" for place in ("first", "second", "third")
]
LONG_KEYS += [f"total amount of the {kind} in the currency of the contract" for kind in ("order", "refund", "discount")]


class Wire:
    """A channel that keeps what the core says."""

    def __init__(self) -> None:
        self.ends: dict[str, Output] = {}
        self.tokens: dict[str, list[int]] = {}

    def receive(self, timeout_s: float) -> Sequence[ToCore]:
        time.sleep(min(timeout_s, 0.001))
        return ()

    def send(self, message: FromCore) -> None:
        for output in message.items if isinstance(message, Outputs) else ():
            self.tokens.setdefault(output.rid, []).extend(output.tokens)
            if output.finish is not None:
                self.ends[output.rid] = output


class Bench:
    """A core, driven by hand."""

    def __init__(self, asked: Namespace) -> None:
        self.plan = make_plan(asked)
        self.wire = Wire()
        self.core = EngineCore(self.plan, self.wire)
        self.tokenizer, text = make_tokenizer(self.plan)
        self.decoder = Tokenizer.from_str(text)
        self.eos_ids = [int(self.tokenizer.eos_token_id)]
        self.core.handle(Vocabulary(text, self.eos_ids))
        while self.core._warm_up():
            pass

    def ask(self, rid: str, ids: list[int], most: int, schema: Any = None, **sampling: Any) -> None:
        text = None if schema is None else json.dumps(schema)
        params = SamplingParams(max_new_tokens=most, json_schema=text, **sampling)
        self.core.handle(Request(rid, ids, params, self.eos_ids if schema is not None else []))

    def turn(self) -> None:
        self.core.take_compiled()
        self.core.step()

    def run(self) -> tuple[int, float]:
        """Until nothing is left; steps and seconds."""
        began, before = time.perf_counter(), self.core.scheduler.stats.step
        while self.core.grammars.waiting or self.core.scheduler.has_work or self.core._launched:
            self.turn()
        return self.core.scheduler.stats.step - before, time.perf_counter() - began


def make_plan(asked: Namespace) -> Plan:
    options: dict[str, Any] = dict(pair.split("=") for pair in asked.option)
    if asked.shape:
        options |= dict(model_path=model_dir(asked.shape), load_format="dummy", dtype="bfloat16", context_length=4096)
    else:
        options |= dict(model_path=str(sample_model_path()), max_total_tokens=32768)
    return resolve(Choices.of(**options))


def make_tokenizer(plan: Plan) -> tuple[Any, str]:
    """The sample's, and as JSON with as many tokens as the model has: pairs of its tokens, merged."""
    from sgcore_gguf.source import GGUFSource

    path = sample_model_path()
    assert path is not None, "the sample model is not installed"
    tokenizer = GGUFSource(path).tokenizer()
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary, size = content["model"]["vocab"], int(plan.hf_config["vocab_size"])
    words = [word for word in vocabulary if word.isascii() and len(word) > 2]
    draw = random.Random(0)
    while len(vocabulary) < size:
        first, second = draw.choice(words), draw.choice(words)
        if first + second not in vocabulary:
            vocabulary[first + second] = len(vocabulary)
            content["model"]["merges"].append([first, second])
    return tokenizer, json.dumps(content)


def follow_schemas(bench: Bench) -> list[dict[str, Any]]:
    """What becomes of each of the schemas, under sampling at temperature 1."""
    prompt = bench.tokenizer.encode("Answer in JSON:\n")
    wanted = schemas()
    for place, schema in enumerate(wanted):
        bench.ask(f"s{place}", prompt, MOST_TOKENS, schema, temperature=1.0, sampling_seed=place)
    bench.run()
    counts: Counter[str] = Counter()
    named: Counter[str] = Counter()
    wrong = []
    for place, schema in enumerate(wanted):
        end = bench.wire.ends[f"s{place}"]
        if end.finish == "abort":
            counts["refused, naming the keyword" if names_its_trouble(schema, end.message) else "refused"] += 1
            named[end.message[:72]] += 1
            continue
        text = bench.decoder.decode(bench.wire.tokens[f"s{place}"])
        verdict = "cut at the limit" if end.finish == "length" else verdict_of(text, schema)
        counts[verdict] += 1
        if verdict == "invalid":
            wrong.append({"schema": json.dumps(schema), "output": text})
    print("\n".join(f"INVALID {row}" for row in wrong))
    return [{"outcome": name, "schemas": count} for name, count in [*counts.items(), *named.most_common()]]


def names_its_trouble(schema: Any, message: str) -> bool:
    parts = keywords(schema) | {str(value) for value in ("min/maxProperties", "format")}
    return any(part in message for part in parts)


def verdict_of(text: str, schema: Any) -> str:
    kind = jsonschema.Draft202012Validator
    checker = jsonschema.FormatChecker(())
    checker.checkers = {
        name: kind.FORMAT_CHECKER.checkers[name] for name in FORMATS & kind.FORMAT_CHECKER.checkers.keys()
    }
    validator = kind(schema, format_checker=checker)
    try:
        return "valid" if validator.is_valid(json.loads(text)) else "invalid"
    except ValueError:
        return "invalid"


def compile_times(bench: Bench) -> list[dict[str, Any]]:
    """Of each supported schema, its first mask included, one after the other."""
    compiler: Compiler = bench.core.grammars._compiler
    seconds = []
    for schema in schemas():
        began = time.perf_counter()
        try:
            compiler._compile(Constraint("json_schema", json.dumps(schema)))
        except ConstraintError:
            continue
        seconds.append(time.perf_counter() - began)
    places = statistics.quantiles(seconds, n=100)
    return [
        {"compiled": len(seconds), "p50_ms": 1e3 * places[49], "p99_ms": 1e3 * places[98], "max_ms": 1e3 * max(seconds)}
    ]


def batch_costs(bench: Bench, steps: int) -> list[dict[str, Any]]:
    """Time of a decode step of 64 rows, of which some are constrained; interleaved twice, the better of each."""
    best: dict[int, float] = {}
    for constrained in (0, 32, 64) * 2:
        seconds = timed_steps(bench, constrained, steps)
        best[constrained] = min(seconds, best.get(constrained, seconds))
    return [
        {"rows": BATCH, "constrained": count, "step_ms": 1e3 * seconds, "slower_percent": 100 * (seconds / best[0] - 1)}
        for count, seconds in best.items()
    ]


def timed_steps(bench: Bench, constrained: int, steps: int) -> float:
    draw = random.Random(constrained)
    for row in range(BATCH):
        ids = [draw.randrange(100, 30_000) for _ in range(8)]
        schema = ENDLESS if row < constrained else None
        bench.ask(f"b{row}", ids, 4 * (WARM_STEPS + steps), schema, temperature=0.0)
    scheduler = bench.core.scheduler
    while bench.core.grammars.waiting or any(s.confirmed < s.prompt_tokens for s in scheduler.sequences.values()):
        bench.turn()
    for _ in range(WARM_STEPS):
        bench.turn()
    began = time.perf_counter()
    for _ in range(steps):
        bench.turn()
    seconds = (time.perf_counter() - began) / steps
    for rid in list(scheduler.sequences):
        scheduler.abort(rid)
    bench.run()
    scheduler.flush_cache()
    return seconds


def forced_savings(bench: Bench, rows: int) -> list[dict[str, Any]]:
    """One object with long keys for each row, with forced tokens taken and without."""
    kind: Any = type(bench.core.grammars._compiler._backend.result().compile(Constraint("regex", "a")).start())
    forced, found = kind.forced, []
    for takes in (True, False, True, False):
        kind.forced = forced if takes else lambda self: ()
        steps, seconds, tokens = long_keys(bench, rows)
        found.append((takes, steps, seconds, tokens))
    kind.forced = forced
    best = {takes: min((f for f in found if f[0] is takes), key=lambda f: f[2]) for takes in (True, False)}
    return [
        {
            "rows": rows, "forced tokens": "taken" if takes else "sampled", "tokens": tokens, "steps": steps,
            "seconds": seconds, "speed-up": best[False][2] / seconds,
        }
        for takes, steps, seconds, tokens in best.values()
    ]  # fmt: skip


def long_keys(bench: Bench, rows: int) -> tuple[int, float, int]:
    values = ({"type": "boolean"}, {"type": "integer", "minimum": 0, "maximum": 99}, {"enum": ["high", "low"]})
    schema = {
        "type": "object",
        "properties": {key: values[place % 3] for place, key in enumerate(LONG_KEYS)},
        "required": LONG_KEYS,
        "additionalProperties": False,
    }
    bench.wire.tokens.clear()
    for row in range(rows):
        ids = bench.tokenizer.encode(f"Customer {row} in JSON:\n")
        bench.ask(f"k{row}", ids, 400, schema, temperature=1.0, sampling_seed=row)
    steps, seconds = bench.run()
    bench.core.scheduler.flush_cache()
    return steps, seconds, sum(map(len, bench.wire.tokens.values()))


def parse() -> Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--shape", help="random weights of a shape of offline.py; the sample model by default")
    parser.add_argument("--steps", type=int, default=40, help="decode steps that are timed")
    parser.add_argument("--rows", type=int, default=16, help="rows with long keys")
    parser.add_argument("--skip-schemas", action="store_true", help="don't generate for the 200 schemas")
    parser.add_argument("--option", action="append", default=[], help="NAME=VALUE of the engine; may be repeated")
    return parser.parse_args()


def main() -> int:
    asked = parse()
    bench = Bench(asked)
    followed = [] if asked.skip_schemas else follow_schemas(bench)
    long_keys(bench, 1)
    tables = {
        "200 schemas": followed,
        "Compiling a schema": compile_times(bench),
        "Constrained rows in a batch": batch_costs(bench, asked.steps),
        "Long keys": forced_savings(bench, asked.rows),
    }
    bench.core.grammars.close()
    report(f"structured_{asked.shape or 'sample'}", tables, asked.output)
    return 0 if not any(row["outcome"] == "invalid" for row in followed) else 1


if __name__ == "__main__":
    sys.exit(main())
