"""A core in a process of its own."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from sgcore import Engine
from sgcore.config import Choices
from sgcore.engine.client import CoreProcess, start_core_process, start_planning_core
from sgcore.errors import LaunchError
from sgcore.plugins.resolve import resolve

SHAPE = dict(vocab_size=99, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    LlamaConfig(**SHAPE, architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "options, message, hint",
    [
        ({"max_total_tokens": 5}, "--max-total-tokens 5 is less than two pages", "at least 32"),
        ({"kv_cache_dtype": "int4"}, "--kv-cache-dtype int4: the attention backend cpu_native", "fp8, fp8_e4m3, int8"),
        ({"skip_tokenizer_init": False, "tokenizer_path": "/no/folder"}, "--tokenizer-path /no/folder", "folder of a"),
    ],
    ids=str,
)
def test_an_option_that_can_not_be_is_named(folder: Path, options: dict[str, Any], message: str, hint: str) -> None:
    usual = {"load_format": "dummy", "skip_tokenizer_init": True, "platform": "cpu"}
    with pytest.raises(LaunchError, match=message) as caught:
        Engine(model_path=str(folder), **{**usual, **options})
    assert hint in caught.value.hint


def test_a_core_that_can_not_start_says_why_and_ends(folder: Path) -> None:
    options = {"load_format": "dummy", "skip_tokenizer_init": True, "max_total_tokens": 10**12}
    plan = resolve(Choices.of(model_path=str(folder), **options))
    frontend = start_core_process(plan, wait=False)
    with pytest.raises(Exception, match="KV cache would need"):
        frontend.wait_ready()
    time.sleep(0.3)  # its sockets are gone by now, and the process takes longer to end
    frontend.close()


def test_a_core_makes_its_plan_and_the_key_never_leaves_this_process(folder: Path) -> None:
    options = {"load_format": "dummy", "skip_tokenizer_init": True, "platform": "cpu", "api_key": "secret"}
    choices = Choices.of(model_path=str(folder), max_total_tokens=64, **options)
    plan, core = start_planning_core(choices, {"platform": "--device"})
    frontend = core.serve(plan)
    try:
        frontend.wait_ready()
        assert plan.choices.server.api_key == "secret" and plan.options["api_key"] == "***"
        expected = resolve(choices, {"platform": "--device"})
        assert plan.options == expected.options and plan.hf_config == expected.hf_config
        assert "secret" not in " ".join(core.process.args)
    finally:
        core.close()
    assert core.process.poll() is not None


@pytest.mark.parametrize(
    ("model", "message", "code"), [("/no/such", "no such model", 1), (None, "--json-model-override-args is no JSON", 2)]
)
def test_a_core_that_can_not_plan_says_why(folder: Path, model: str | None, message: str, code: int) -> None:
    choices = Choices.of(model_path=model or str(folder), load_format="dummy", json_model_override_args="{")
    with pytest.raises(LaunchError, match=message) as caught:
        start_planning_core(choices, {})
    assert caught.value.exit_code == code and "Traceback" in caught.value.__notes__[0]


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_stopped_core_is_noticed_and_one_that_goes_on_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgcore.engine.frontend.SILENCE_S", 2.5)
    plan = resolve(Choices.of(model_path=str(folder), load_format="dummy", skip_tokenizer_init=True, platform="null"))
    core = CoreProcess({"plan": plan.to_json()})
    frontend = core.serve(plan)
    try:
        frontend.wait_ready()
        assert frontend.is_alive()
        core.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: not frontend.is_alive())
        core.process.send_signal(signal.SIGCONT)
        wait_until(frontend.is_alive)
    finally:
        core.process.send_signal(signal.SIGCONT)
        core.close()
