"""What programs of the language cost: requests, tokens and time, with each of its savings off in turn.

Tree of thought, few-shot choices, conversations and JSON templates. The counts don't depend on the weights:
`--shape tiny` gives them within a minute.
"""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import OUT, arguments, report
from offline import SHAPES, model_dir

import sgcore_lang as sgl
from sgcore import Engine
from sgcore.config import Choices
from sgcore.plugins.resolve import resolve
from sgcore.testing.sample import sample_model_path
from sgcore_lang.backends.engine import InProcess

SHAPES["tiny"] = SHAPES["qwen06b"] | {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 32, "torch_dtype": "float32",
}  # fmt: skip
PARAGRAPH = "Every part of a plan has a reason, and every reason can be told in a few plain words to whoever asks. "
SHOT = "Review: The {} was {}, and everybody in the hall said so on the way home.\nIt is: {}\n\n"
MODES = {
    "all on": {},
    "no prefix reuse": {"disable_radix_cache": True},
    "one request for each gen": {"takes_programs": False},
    "no fork hints": {"hints": False},
}
"""What is switched off."""


class Backend(InProcess):
    """The engine, counting round trips; `takes_programs` false: one for each generation."""

    def __init__(self, engine: Engine, takes_programs: bool) -> None:
        super().__init__(engine)
        self.takes_programs = takes_programs
        self.counts: Counter[str] = Counter()

    async def run(self, call: Any, progress: Any = None) -> Any:
        reply = await super().run(call, progress)
        self.counts.update({"requests": 1, **reply.counts})
        return reply


@dataclass(frozen=True)
class Size:
    """How much of each workload, and tokens for each generation."""

    tokens: int
    trees: int
    width: int
    shots: int
    questions: int
    talks: int
    turns: int
    texts: int


SMALL = Size(tokens=4, trees=1, width=2, shots=20, questions=100, talks=4, turns=4, texts=16)
LARGE = Size(tokens=64, trees=16, width=4, shots=20, questions=100, talks=64, turns=6, texts=256)


@sgl.function
def tree(s, number, size):
    s += PARAGRAPH * 6 + f"Question {number}.\n"
    plans = s.fork(size.width)
    plans += lambda place: f"Plan {place}:" + generation("plan", size) + "\n"
    leaves = []
    for plan in plans:
        ways = plan.fork(size.width)
        ways += lambda place: f"Way {place}:" + generation("way", size) + "\nAnswer:" + generation("answer", size)
        ways += "\nGrade: " + sgl.select("grade", ["1", "2", "3"])
        leaves.append(ways)
    for ways in leaves:
        ways.join()
    plans.join()
    s += "In short:" + generation("short", size)


@sgl.function
def few_shot(s, number, size):
    s += "".join(SHOT.format(f"play {n}", ("long", "good")[n % 2], ("bad", "good")[n % 2]) for n in range(size.shots))
    s += f"Review: Number {number} was as good as any.\nIt is: " + sgl.select("label", ["good", "bad"])


@sgl.function
def talk(s, number, size):
    s += sgl.system(PARAGRAPH * 2)
    for turn in range(size.turns):
        s += sgl.user(f"Talk {number}, question {turn}: what would you say to that, and why?")
        s += sgl.assistant(generation(f"answer_{turn}", size))


@sgl.function
def extract(s, number, size):
    s += PARAGRAPH * 2 + f'Text {number}: Rex is a dog.\nJSON: {{"name": "'
    s += generation("a", size) + '", "kind": "' + generation("b", size) + '", "colour": "' + generation("c", size)
    s += '", "age": "' + generation("d", size) + '", "place": "' + generation("e", size) + '"}'


def generation(name: str, size: Size) -> Any:
    """So many tokens, whatever they say."""
    return sgl.gen(name, max_tokens=size.tokens, temperature=0, ignore_eos=True)


WORKLOADS: dict[str, tuple[Any, Callable[[Size], int]]] = {
    "tree of thought": (tree, lambda size: size.trees),
    "few-shot select": (few_shot, lambda size: size.questions),
    "multi-turn chat": (talk, lambda size: size.talks),
    "JSON of five gens": (extract, lambda size: size.texts),
}


def measure(engine: Engine, mode: str, name: str, size: Size) -> dict[str, Any]:
    """One workload with an empty cache."""
    program, count = WORKLOADS[name]
    options = MODES[mode]
    backend = Backend(engine, options.get("takes_programs", True))
    engine.flush_cache()
    began = time.perf_counter()
    runs = [{"number": number, "size": size} for number in range(count(size))]
    states = program.run_batch(runs, backend=backend, hints=options.get("hints", True))
    for state in states:
        state.text()
    seconds = time.perf_counter() - began
    counts = backend.counts
    return {
        "workload": name,
        "mode": mode,
        "programs": len(runs),
        "requests": counts["requests"],
        "requests_a_program": counts["requests"] / len(runs),
        "prompt_tokens": counts["prompt_tokens"],
        "cached_tokens": counts["cached_tokens"],
        "prefilled_tokens": counts["prompt_tokens"] - counts["cached_tokens"],
        "generated_tokens": counts["completion_tokens"],
        "seconds": seconds,
        "programs_per_s": len(runs) / seconds,
    }


def compare(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What prefix reuse saves, for each workload."""
    found = {(row["workload"], row["mode"]): row for row in rows}
    for name in dict.fromkeys(row["workload"] for row in rows):
        on, off = (found.get((name, mode)) for mode in ("all on", "no prefix reuse"))
        if on and off:
            yield {
                "workload": name,
                "prefilled_without_reuse": off["prefilled_tokens"],
                "prefilled": on["prefilled_tokens"],
                "times_fewer": off["prefilled_tokens"] / on["prefilled_tokens"],
                "times_faster": off["seconds"] / on["seconds"],
            }


@contextmanager
def opened(asked: Namespace, **options: Any) -> Iterator[Engine]:
    """The engine that was asked for."""
    model = asked.model or str(sample_model_path())
    if asked.shape is not None:
        options |= {"load_format": "dummy", "tokenizer_path": str(sample_tokenizer(model)), "context_length": 12288}
        model = model_dir(asked.shape)
    if asked.max_total_tokens:
        options |= {"max_total_tokens": asked.max_total_tokens}
    with Engine(model_path=model, **options) as engine:
        engine.generate("warm", {"max_new_tokens": 2})
        yield engine


def sample_tokenizer(model: str) -> Path:
    """A folder with a model's tokenizer, for weights that have none."""
    plan = resolve(Choices.of(model_path=model))
    folder = OUT / "tokenizer"
    plan.source.load()(plan.path).tokenizer().save_pretrained(folder)
    return folder


def parse() -> Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--model", help="a checkpoint; the sample model by default")
    parser.add_argument("--shape", choices=SHAPES, help="random weights of this shape, with the model's tokenizer")
    parser.add_argument("--max-total-tokens", type=int, help="of the cache; what fits, if left out")
    parser.add_argument("--size", choices=("small", "large"), default="small", help="large is for a GPU")
    parser.add_argument("--only", default="", help="workloads by their beginnings: tree,few")
    parser.add_argument("--modes", default="", help="modes by their beginnings: all,no prefix")
    return parser.parse_args()


def chosen(names: Any, beginnings: str) -> list[str]:
    """Names that begin with one of some words; all if there is none."""
    wanted = tuple(filter(None, beginnings.split(",")))
    return [name for name in names if not wanted or name.startswith(wanted)]


def main() -> int:
    asked = parse()
    size = LARGE if asked.size == "large" else SMALL
    rows: list[dict[str, Any]] = []
    modes = chosen(MODES, asked.modes)
    for disabled in (False, True):
        mine = [mode for mode in modes if bool(MODES[mode].get("disable_radix_cache")) == disabled]
        if mine:
            with opened(asked, disable_radix_cache=disabled) as engine:
                for name in chosen(WORKLOADS, asked.only):
                    measure(engine, mine[0], name, size)  # compiles and captures what it needs
                    for mode in mine:
                        rows.append(measure(engine, mode, name, size))
                        print(json.dumps(rows[-1]), flush=True)
    rows.sort(key=lambda row: list(WORKLOADS).index(row["workload"]))
    report("lang", {"Programs": rows, "Prefix reuse": list(compare(rows))}, asked.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
