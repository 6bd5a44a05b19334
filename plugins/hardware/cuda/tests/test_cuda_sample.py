"""The sample model gives the same greedy text on a GPU as on the CPU, stop strings included."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sgcore import Engine
from sgcore.testing.sample import sample_model_path

MODEL = sample_model_path()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.skipif(MODEL is None, reason="the sample model is not installed"),
]
PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n",
    "Once upon a time",
    "Q: What is 12 times 12?\nA:",
    "The three primary colours are",
    "Dear Sir or Madam,\n",
] * 2
SAMPLING = {"temperature": 0.0, "max_new_tokens": 48}


def replies(platform: str, sampling: dict[str, Any]) -> list[tuple[str, list[int], Any]]:
    options = {"platform": platform, "dtype": "float32", "max_total_tokens": 8192}
    with Engine(model_path=str(MODEL), **options) as engine:
        found = engine.generate(PROMPTS, sampling_params=sampling)
    return [(reply["text"], reply["output_ids"], reply["meta_info"]["finish_reason"]) for reply in found]


@pytest.mark.parametrize("stop", [[], [",", "\n\n"]], ids=["to-the-end", "stop-strings"])
def test_greedy_text(stop: list[str]) -> None:
    sampling = {**SAMPLING, "stop": stop}
    on_gpu, on_cpu = replies("cuda", sampling), replies("cpu", sampling)
    assert [text for text, _, _ in on_gpu] == [text for text, _, _ in on_cpu]
    assert [reason for _, _, reason in on_gpu] == [reason for _, _, reason in on_cpu]
    if not stop:
        assert [ids for _, ids, _ in on_gpu] == [ids for _, ids, _ in on_cpu]
