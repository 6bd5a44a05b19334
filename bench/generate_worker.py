"""transformers' `generate` as a process: FOLDER; a JSON job a line on stdin, its answer a line on stdout.

Job: `prompts` (lists of token ids, all of one length), `max_new_tokens`. Answer: `arrivals` (seconds from the job's
start to each token; for several prompts only to the end), `tokens` and `texts` of each prompt.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation.streamers import BaseStreamer


class Clock(BaseStreamer):
    """Notes when each token comes. The prompt comes first, and isn't counted."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.seconds: list[float] = []

    def put(self, value: Any) -> None:
        self.seconds.append(time.perf_counter() - self.began)

    def end(self) -> None:
        del self.seconds[0]


def answer(model: Any, tokenizer: Any, job: dict[str, Any]) -> dict[str, Any]:
    prompts = torch.tensor(job["prompts"])
    count = job["max_new_tokens"]
    clock = Clock()
    with torch.inference_mode():
        output = model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            streamer=clock if len(prompts) == 1 else None,
        )
    arrivals = clock.seconds or [time.perf_counter() - clock.began]
    new = output[:, prompts.shape[1] :]
    texts = tokenizer.batch_decode(new)
    return {"arrivals": arrivals, "tokens": [len(row) for row in new], "texts": texts}


def main(folder: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(model, tokenizer, json.loads(line))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
