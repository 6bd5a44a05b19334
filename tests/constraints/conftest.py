"""A tiny random model with a real tokenizer: it says anything, and so explores whatever a grammar allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from sgcore import Engine
from sgcore.testing.checkpoints import train_tokenizer

SPECIAL = ["<pad>", "<end>", "<think>", "</think>"]
TEXT = (Path(__file__).parents[2] / "LICENSE").read_text() + '{"name": "value", "size": [1, 2.5, true, null]} ' * 40
MODEL_VOCABULARY = 600
"""Larger than the tokenizer's: the last ids stand for nothing, as in padded embeddings."""


def make_tokenizer() -> Any:
    tokenizer = train_tokenizer([TEXT], 560, SPECIAL)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(4)
    config = transformers.LlamaConfig(
        vocab_size=MODEL_VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        eos_token_id=1,
        bos_token_id=None,
        pad_token_id=0,
    )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    path = tmp_path_factory.mktemp("tiny")
    model.save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return path


OpenEngine = Callable[..., Engine]


@pytest.fixture(scope="session")
def open_engine(folder: Path) -> Iterator[OpenEngine]:
    """Engines by their options, each opened once."""
    opened: dict[tuple[tuple[str, Any], ...], Engine] = {}
    with ExitStack() as stack:

        def open_one(**options: Any) -> Engine:
            key = tuple(sorted(options.items()))
            if key not in opened:
                defaults = {"max_total_tokens": 16384, "dtype": "float32", "max_running_requests": 32, "threads": 1}
                opened[key] = stack.enter_context(Engine(model_path=str(folder), **{**defaults, **options}))
            return opened[key]

        yield open_one


@pytest.fixture(params=[0, 1, 2], ids="run-ahead-{}".format)
def engine(request: pytest.FixtureRequest, open_engine: OpenEngine) -> Engine:
    return open_engine(run_ahead=request.param, page_size=4)
