"""Prompts with an exact number of tokens, and the data sets made of them."""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path
from typing import Any

import httpx2

from sgcore.benchmark.client import Work
from sgcore.errors import LaunchError

WORDS = (
    "the of and to in is you that it he was for on are as with his they at be this have from or one had by word but "
    "not what all were we when your can said there use an each which she do how their if will up other about out many"
).split()
RANDOM_IDS = range(3, 256)
"""Token ids of servers without a tokenizer: every vocabulary has these."""
EXACT_TRIES = 8


class Tokens:
    """Text to token ids and back, by the server's own tokenizer or by a file."""

    def __init__(self, http: httpx2.AsyncClient, model: str, path: str | None) -> None:
        self._http, self._model = http, {"model": model} if model else {}
        self._tokenizer = _open_tokenizer(path) if path else None

    async def encode(self, text: str, is_prompt: bool = False) -> list[int]:
        """Token ids; `is_prompt` adds what a prompt begins with."""
        if self._tokenizer is not None:
            return list(self._tokenizer.encode(text, add_special_tokens=is_prompt).ids)
        body = {"prompt": text, "add_special_tokens": is_prompt, **self._model}
        return list((await self._ask("/tokenize", body))["tokens"])

    async def decode(self, ids: list[int]) -> str:
        """Their text."""
        if self._tokenizer is not None:
            return str(self._tokenizer.decode(ids))
        reply = await self._ask("/detokenize", {"tokens": ids, **self._model})
        return str(reply.get("text", reply.get("prompt")))

    async def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        response = await self._http.post(path, json=body)
        if response.status_code != 200:
            reason = f"{path} answers {response.status_code}: {response.text[:200]}"
            raise LaunchError(f"prompts can't be made: {reason}", "give a tokenizer with --tokenizer")
        return dict(response.json())


def _open_tokenizer(path: str) -> Any:
    """A folder with `tokenizer.json`, that file, or a hub id."""
    try:
        from tokenizers import Tokenizer

        file = Path(path, "tokenizer.json") if Path(path).is_dir() else Path(path)
        return Tokenizer.from_file(str(file)) if file.exists() else Tokenizer.from_pretrained(path)
    except Exception as error:  # the library raises plain Exception
        raise LaunchError(
            f"no tokenizer can be loaded from {path}: {error}", "name a folder with tokenizer.json"
        ) from error


class Prompts:
    """Makes prompts of common words with exactly the asked number of tokens: ids for `/generate`, text otherwise."""

    def __init__(self, tokens: Tokens, backend: str, draw: random.Random) -> None:
        self._tokens, self._wants_ids, self.draw = tokens, backend == "sgcore", draw
        self._has_tokenizer = True
        self._special = 0

    async def prepare(self) -> None:
        """Learn how many tokens the server puts before a prompt, or that it has no tokenizer."""
        try:
            plain, whole = [len(await self._tokens.encode(WORDS[0], special)) for special in (False, True)]
            self._special = 0 if self._wants_ids else whole - plain
        except LaunchError:
            if not self._wants_ids:
                raise
            self._has_tokenizer = False

    async def make(self, count: int, head: str | list[int] = "") -> str | list[int]:
        """A prompt of `count` tokens that begins with `head`, which is an earlier prompt."""
        if not self._wants_ids:
            return await self._text(max(count - self._special, 1), str(head))
        known = list(head) if isinstance(head, list) else []
        more = count - len(known)
        if not self._has_tokenizer:
            return known + self.draw.choices(RANDOM_IDS, k=more)
        return known + (await self._tokens.encode(self._words(more)))[:more]

    async def _text(self, count: int, head: str) -> str:
        text = head or self._words(count)
        for _ in range(EXACT_TRIES):
            ids = await self._tokens.encode(text)
            if len(ids) == count:
                return text
            if len(ids) > count:
                text = await self._tokens.decode(ids[:count])
            else:
                text += self._words(count - len(ids))
        raise LaunchError(f"no prompt of exactly {count} tokens was found", "give another --seed")

    def _words(self, count: int) -> str:
        return "".join(f" {word}" for word in self.draw.choices(WORDS, k=count))


async def make_work(asked: argparse.Namespace, prompts: Prompts) -> list[Work]:
    """The requests of a data set, in the order in which they are sent."""
    if asked.dataset_path:
        return _read_work(asked.dataset_path)[: asked.num_prompts]
    await prompts.prepare()
    if asked.dataset_name == "random":
        draw, ratio = prompts.draw, asked.random_range_ratio
        sizes = [
            (_between(draw, asked.random_input_len, ratio), _between(draw, asked.random_output_len, ratio))
            for _ in range(asked.num_prompts)
        ]
        return [Work(await prompts.make(size), size, output) for size, output in sizes]
    return await _grouped(asked, prompts)


def _between(draw: random.Random, most: int, ratio: float) -> int:
    return draw.randint(max(1, int(most * ratio)), max(1, most))


async def _grouped(asked: argparse.Namespace, prompts: Prompts) -> list[Work]:
    """Groups that share their first tokens, shuffled."""
    head_tokens, size = asked.gsp_system_prompt_len, asked.gsp_system_prompt_len + asked.gsp_question_len
    work = []
    for _ in range(asked.gsp_num_groups):
        head = await prompts.make(head_tokens)
        for _ in range(asked.gsp_prompts_per_group):
            work.append(Work(await prompts.make(size, head), size, asked.gsp_output_len))
    prompts.draw.shuffle(work)
    return work


def _read_work(path: str) -> list[Work]:
    try:
        entries = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").split("\n") if line.strip()]
        prompts = [(entry["prompt"], int(entry["max_tokens"])) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LaunchError(
            f"can't read {path}: {type(error).__name__}: {error}", 'each line is {"prompt": ..., "max_tokens": ...}'
        ) from error
    return [Work(prompt, 0 if isinstance(prompt, str) else len(prompt), most) for prompt, most in prompts]
