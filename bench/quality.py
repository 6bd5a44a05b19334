"""Perplexity of the sample model on fixed texts: float32, 8-bit floats, and integers by round-to-nearest."""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export_sample import exported
from harness import arguments, report
from packing import GROUP, Pack, awq, gptq, write

from sgcore import Engine

ROOT = Path(__file__).parents[1]
TEXTS = ("LICENSE", "docs/explanation/architecture.md")
WINDOW_TOKENS = 512
INTEGERS = {"group_size": GROUP, "bits": 4}


@dataclass(frozen=True)
class Format:
    """One line of the table."""

    name: str
    config: dict[str, Any] | None = None
    pack: Pack | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the engine."""


IN_CHUNKS = {"chunked_prefill_size": 64}
"""Of a prompt: on a GPU a whole one attends to the keys and values as they were computed."""
FORMATS = (
    Format("float32"),
    Format("keys and values in fp8", options={"kv_cache_dtype": "fp8"} | IN_CHUNKS),
    Format("keys and values in int8", options={"kv_cache_dtype": "int8"} | IN_CHUNKS),
    Format("fp8, at start", options={"quantization": "fp8"}),
    Format("int8, at start", options={"quantization": "int8"}),
    Format("int4, at start", options={"quantization": "int4"}),
    Format(f"awq, 4 bits, {GROUP}", INTEGERS | {"quant_method": "awq", "zero_point": True, "version": "gemm"}, awq),
    Format(f"gptq, 4 bits, {GROUP}", INTEGERS | {"quant_method": "gptq", "desc_act": False, "sym": True}, gptq(4)),
    Format(f"gptq, 8 bits, {GROUP}", INTEGERS | {"quant_method": "gptq", "desc_act": False, "bits": 8}, gptq(8)),
)


def windows(tokenizer: Any, text: str, limit: int) -> Iterator[list[int]]:
    ids = tokenizer(text).input_ids[: limit * WINDOW_TOKENS]
    yield from (ids[start : start + WINDOW_TOKENS] for start in range(0, len(ids), WINDOW_TOKENS))


def logprobs(folder: Path, texts: list[list[list[int]]], **options: Any) -> list[list[float]]:
    """For each text, the log-probability of every token that has one before it in its window."""
    params = {"max_new_tokens": 1, "temperature": 0.0}
    found = []
    with Engine(model_path=str(folder), **options) as engine:
        for text in texts:
            replies = [
                engine.generate(input_ids=ids, sampling_params=params, return_logprob=True, logprob_start_len=0)
                for ids in text
            ]
            entries = [entry for reply in replies for entry in reply["meta_info"]["input_token_logprobs"][1:]]
            found.append([entry[0] for entry in entries])
    return found


def row(form: Format, source: Path, scratch: Path, texts: list[list[list[int]]], **options: Any) -> dict[str, Any]:
    """Perplexities, and the log-probabilities beside those of the weights that the tensors stand for."""
    folder = source if form.pack is None else write(source, scratch / "packed", form.pack, form.config)
    found = logprobs(folder, texts, **options, **form.options)
    line: dict[str, Any] = {"format": form.name}
    line |= {name: math.exp(-sum(one) / len(one)) for name, one in zip(TEXTS, found, strict=True)}
    if form.pack is not None:
        wide = logprobs(write(source, scratch / "wide", form.pack, None), texts[:1], **options)
        line["most_logprob_error"] = max(abs(a - b) for a, b in zip(found[0], wide[0], strict=True))
    return line


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--platform", help="the one that is present by default")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--windows", type=int, default=1000, help=f"most of each text, of {WINDOW_TOKENS} tokens")
    parser.add_argument("--formats", nargs="*", default=[form.name for form in FORMATS])
    asked = parser.parse_args()
    from transformers import AutoTokenizer

    source = exported()
    tokenizer = AutoTokenizer.from_pretrained(source)
    texts = [list(windows(tokenizer, (ROOT / name).read_text(), asked.windows)) for name in TEXTS]
    options = {"dtype": asked.dtype, "platform": asked.platform, "max_total_tokens": 2048}
    rows = []
    for form in FORMATS:
        if form.name in asked.formats:
            with tempfile.TemporaryDirectory() as scratch:
                rows.append(row(form, source, Path(scratch), texts, **options))
            print(rows[-1], flush=True)
    tokens = {name: sum(map(len, text)) for name, text in zip(TEXTS, texts, strict=True)}
    report("quality", {"Perplexity": rows}, asked.output, tokens=tokens, dtype=asked.dtype)
    return 0


if __name__ == "__main__":
    sys.exit(main())
