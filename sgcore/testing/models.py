"""What every model plugin has to pass: transformers' tokens and probabilities, however the engine cuts the work."""

from __future__ import annotations

import functools
import json
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from sgcore import Engine
from sgcore.errors import LaunchError
from sgcore.testing.checkpoints import FIRST_TOKEN, greedy_tokens, log_probabilities, write_checkpoint
from sgcore.testing.model_keys import REMOVED, Reference, changes_of, described

NEW_TOKENS = 8
GREEDY = {"temperature": 0.0, "max_new_tokens": NEW_TOKENS, "ignore_eos": True}
LENGTHS = (1, 2, 15, 16, 17, 40, 90, 200)
PREFIX = 33
"""Tokens that the longer prompts have in common."""


class ModelSuite:
    """Inherit it, call the class `Test...` and set `config`; the rest has defaults.

    The checkpoint is random, in float32, and as small as `config` says: give a vocabulary of at least 50, a few
    layers, and a context of 512 or more.
    """

    config: ClassVar[Any]
    """A transformers configuration whose architecture the plugin offers."""
    architecture: ClassVar[str | None] = None
    """What `config.json` says in `architectures`, where the plugin offers another name than transformers has."""
    options: ClassVar[dict[str, Any]] = {}
    """Options of `Engine` beside the suite's own."""
    tolerance: ClassVar[float] = 2e-3
    """Of a log-probability."""
    changes: ClassVar[Sequence[Mapping[str, Any]]] = ()
    """Changes of `config.json` that mean something together. Each key is changed alone, too, by values that its own
    suggests; a value of `sgcore.testing.model_keys.REMOVED` leaves the key out."""

    @pytest.fixture(scope="class")
    @classmethod
    def checkpoint(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
        folder = tmp_path_factory.mktemp("checkpoint")
        model = write_checkpoint(cls.config, folder)
        if cls.architecture is not None:
            file = folder / "config.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), "architectures": [cls.architecture]}))
        return folder, model

    @pytest.fixture(scope="class")
    @classmethod
    def prompts(cls) -> list[list[int]]:
        draw = random.Random(5)
        vocabulary = int(cls.config.get_text_config().vocab_size)
        ids = [[draw.randrange(FIRST_TOKEN, vocabulary) for _ in range(n)] for n in LENGTHS]
        return [ids[-1][:PREFIX] + one[PREFIX:] if len(one) > PREFIX else one for one in ids]

    @pytest.fixture(scope="class")
    @classmethod
    def expected(cls, checkpoint: tuple[Path, Any], prompts: list[list[int]]) -> list[list[int]]:
        return [greedy_tokens(checkpoint[1], prompt, NEW_TOKENS) for prompt in prompts]

    @classmethod
    def open(cls, folder: Path, **options: Any) -> Engine:
        """An engine for a checkpoint of the suite."""
        own = {"max_total_tokens": 4096, "skip_tokenizer_init": True, "dtype": "float32", "max_running_requests": 16}
        return Engine(model_path=str(folder), **{**own, **cls.options, **options})

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, checkpoint: tuple[Path, Any]) -> Iterator[Engine]:
        with cls.open(checkpoint[0]) as opened:
            yield opened

    def test_each_prompt_alone(self, engine: Engine, prompts: list[list[int]], expected: list[list[int]]) -> None:
        engine.flush_cache()
        for prompt, wanted in zip(prompts, expected, strict=True):
            assert tokens(engine, [prompt]) == [wanted]

    def test_neighbours_and_cached_prefixes_change_nothing(
        self, engine: Engine, prompts: list[list[int]], expected: list[list[int]]
    ) -> None:
        engine.flush_cache()
        assert tokens(engine, prompts) == expected
        assert tokens(engine, prompts) == expected

    @pytest.mark.parametrize("size", [1, 5, 16])
    def test_prompts_cut_anywhere(
        self, checkpoint: tuple[Path, Any], prompts: list[list[int]], expected: list[list[int]], size: int
    ) -> None:
        with self.open(checkpoint[0], chunked_prefill_size=size) as engine:
            assert tokens(engine, prompts[3:6]) == expected[3:6]

    def test_a_prefix_of_any_length_in_the_cache(
        self, engine: Engine, prompts: list[list[int]], expected: list[list[int]]
    ) -> None:
        prompt, wanted = prompts[5], expected[5]
        for length in range(1, len(prompt)):
            engine.flush_cache()
            engine.generate(input_ids=prompt[:length], sampling_params={**GREEDY, "max_new_tokens": 1})
            assert tokens(engine, [prompt]) == [wanted], f"after a cached prefix of {length} tokens"

    def test_log_probabilities(self, checkpoint: tuple[Path, Any], engine: Engine, prompts: list[list[int]]) -> None:
        engine.flush_cache()
        for prompt in prompts[1:]:
            reply = engine.generate(input_ids=prompt, sampling_params=GREEDY, return_logprob=True, logprob_start_len=0)
            meta, whole = reply["meta_info"], prompt + reply["output_ids"]
            reference = log_probabilities(checkpoint[1], whole)
            wanted = reference[torch.arange(len(whole) - 1), torch.tensor(whole[1:])]
            entries = meta["input_token_logprobs"][1:] + meta["output_token_logprobs"]
            got = torch.tensor([entry[0] for entry in entries])
            torch.testing.assert_close(got, wanted, atol=self.tolerance, rtol=0)

    def test_few_pages_give_the_same_tokens_after_retraction(
        self, checkpoint: tuple[Path, Any], prompts: list[list[int]], expected: list[list[int]]
    ) -> None:
        with self.open(checkpoint[0], max_total_tokens=128, chunked_prefill_size=64) as engine:
            assert tokens(engine, prompts[2:5] * 4) == expected[2:5] * 4
            assert engine.flush_cache()

    @pytest.mark.parametrize("change", ["missing", "unknown"])
    def test_a_checkpoint_that_does_not_fit_is_refused(
        self, checkpoint: tuple[Path, Any], tmp_path: Path, change: str
    ) -> None:
        tensors = load_file(checkpoint[0] / "model.safetensors")
        name = next(name for name in tensors if ".layers.0." in name and tensors[name].dim() > 1)
        if change == "missing":
            del tensors[name]
        else:
            name = name.replace(".layers.0.", ".layers.0.made_up.")
            tensors[name] = torch.zeros(2, 2)
        (tmp_path / "config.json").write_bytes((checkpoint[0] / "config.json").read_bytes())
        save_file(tensors, tmp_path / "model.safetensors")
        with pytest.raises(LaunchError, match=r"layers\.0"):
            self.open(tmp_path)

    def test_every_key_of_the_configuration_is_followed_or_refused(
        self, checkpoint: tuple[Path, Any], prompts: list[list[int]], tmp_path: Path
    ) -> None:
        """Wherever transformers' logits change, the engine's do, or it refuses the key by its name."""
        raw, wrong = json.loads((checkpoint[0] / "config.json").read_text()), []
        reference = Reference(type(self.config), raw, prompts[-2])
        for change in (*changes_of(checkpoint[1], raw), *self.changes):
            changed = described(raw, change)
            expected = reference.changed_logits(changed, tmp_path)
            if expected is not None and (problem := self._differs(tmp_path, prompts[-2], expected, change)):
                wrong.append(f"{_words(change)}: {problem}")
        assert not wrong, "\n".join(wrong)

    @classmethod
    def _differs(cls, folder: Path, prompt: list[int], expected: torch.Tensor, change: Mapping[str, Any]) -> str | None:
        """What is wrong with the answer to a changed configuration; None: it is transformers', or refused."""
        try:
            with cls.open(folder) as engine:
                request: Any = {"sampling_params": {**GREEDY, "max_new_tokens": 1}, "return_logprob": True}
                reply = engine.generate(input_ids=prompt, logprob_start_len=0, **request)
        except Exception as error:
            if not isinstance(error, LaunchError):
                return f"{type(error).__name__}: {error}"
            return None if any(key in str(error) for key in change) else f"refused, but not by name: {error}"
        got = torch.tensor([entry[0] for entry in reply["meta_info"]["input_token_logprobs"][1:]])
        wanted = expected[torch.arange(len(prompt) - 1), torch.tensor(prompt[1:])]
        distance = float((got - wanted).abs().max())
        return None if distance <= cls.tolerance else f"log-probabilities differ by up to {distance:.3g}"

    def test_importing_the_driver_starts_no_device(self, engine: Engine) -> None:
        import_alone(engine.plan.model.load().__module__)


def _words(change: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {'left out' if value is REMOVED else repr(value)}" for key, value in change.items())


@functools.cache
def import_alone(module: str) -> None:
    """Import a module in a process of its own, once for all suites of a driver; raises where that starts a device."""
    code = f"import {module}, torch; assert not torch.cuda.is_initialized()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def tokens(engine: Engine, prompts: list[list[int]]) -> list[list[int]]:
    """The greedy tokens behind each prompt, computed together."""
    return [reply["output_ids"] for reply in engine.generate(input_ids=prompts, sampling_params=GREEDY)]
