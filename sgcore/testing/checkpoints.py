"""Tiny random checkpoints, and what transformers computes with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sgcore.api import WeightSource

FIRST_TOKEN = 2
"""Below it are tokens that a configuration gives a meaning to."""


def write_checkpoint(config: Any, folder: Path, seed: int = 3, std: float = 0.3) -> Any:
    """Save a model of a transformers configuration with random weights in `folder`; returns the model.

    Weights are large enough for the tokens of a greedy run to differ, and norms are no ones.
    """
    model = random_model(config, seed, std)
    model.save_pretrained(folder)
    return model


def random_model(config: Any, seed: int = 3, std: float = 0.3) -> Any:
    """A model of a transformers configuration, as `write_checkpoint` saves it."""
    import transformers

    torch.manual_seed(seed)
    build: Any = transformers.AutoModelForCausalLM.from_config
    model = build(config).float().eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 and "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        else:
            torch.nn.init.normal_(parameter, std=std)
    return model


def greedy_tokens(model: Any, prompt: Sequence[int], count: int) -> list[int]:
    """The `count` tokens that transformers' own loop appends, end tokens taken as any other."""
    with torch.inference_mode():
        out = model.generate(
            torch.tensor([list(prompt)]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
    return out[0, len(prompt) :].tolist()  # type: ignore[no-any-return]


def log_probabilities(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """(tokens, vocabulary) float32: the distribution behind each token."""
    with torch.inference_mode():
        return model(torch.tensor([list(ids)])).logits[0].float().log_softmax(-1)  # type: ignore[no-any-return]


class GivenTensors(WeightSource):
    """Tensors from a dictionary."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.given = tensors

    def hf_config(self) -> dict[str, Any]:
        return {}

    def tokenizer(self) -> Any:
        return None

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from self.given.items()

    def tensor_count(self) -> int:
        return len(self.given)


def train_tokenizer(texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str]) -> Any:
    """A small `tokenizers.Tokenizer` of byte-level pairs; the special tokens have the first ids."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
