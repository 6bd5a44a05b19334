"""The checkpoint's text side, which is read while the core's process still makes the plan."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from sgcore.config import Choices
from sgcore.engine.checkpoint import Checkpoint, CheckpointAhead, read_checkpoint, with_end_tokens
from sgcore.engine.client import start_planning_core
from sgcore.engine.frontend import Frontend
from sgcore.errors import LaunchError
from sgcore.plugins.plan import Driver
from sgcore.testing.weights import make_tokenizer
from tests.server.fake import make_plan

SHAPE = dict(vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1)
SOURCE = Driver("weights", "dummy", "sgcore.weights.dummy:DummySource", "sgcore", "0")
OWN = {"skip_tokenizer_init": False, "tokenizer_path": None}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    LlamaConfig(**SHAPE, architectures=["LlamaForCausalLM"]).save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 7}))
    make_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def test_what_is_read_ahead_is_what_would_be_read(folder: Path) -> None:
    ahead = CheckpointAhead(OWN)
    ahead.found(SOURCE, folder)
    read, expected = ahead.get(OWN), read_checkpoint(SOURCE, folder, OWN)
    assert read is not None and read.generation_config == expected.generation_config == {"eos_token_id": 7}
    assert read.tokenizer.backend_tokenizer.to_str() == expected.tokenizer.backend_tokenizer.to_str()


@pytest.mark.parametrize("changed", [{"skip_tokenizer_init": True}, {"tokenizer_path": "/elsewhere"}], ids=str)
def test_a_plan_with_another_tokenizer_gets_nothing(changed: dict[str, Any]) -> None:
    assert CheckpointAhead(OWN).get(OWN | changed) is None


def test_without_a_tokenizer_none_is_read(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    options = OWN | {"skip_tokenizer_init": True}
    assert read_checkpoint(SOURCE, folder, options).tokenizer is None


def test_an_error_of_reading_is_raised_to_who_asks(tmp_path: Path) -> None:
    ahead = CheckpointAhead(OWN)
    ahead.found(SOURCE, tmp_path / "no")
    with pytest.raises(LaunchError, match="is not a folder"):
        ahead.get(OWN)


def test_a_planning_core_says_where_the_checkpoint_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = []
    found = CheckpointAhead.found

    def noted(self: CheckpointAhead, source: Driver, path: Path) -> None:
        places.append((source.name, path))
        found(self, source, path)

    monkeypatch.setattr(CheckpointAhead, "found", noted)
    choices = Choices.of(model_path=str(folder), load_format="dummy", platform="cpu", max_total_tokens=64)
    plan, core = start_planning_core(choices, {})
    try:
        frontend = core.serve(plan)
        frontend.wait_ready()
        assert frontend.tokenizer is not None and 7 in frontend.eos_ids
        assert places == [("dummy", folder)]
    finally:
        core.close()


def test_the_checkpoint_is_found_before_torch_is_imported(folder: Path) -> None:
    code = (
        "import sys; from sgcore.config import Choices; from sgcore.plugins.resolve import resolve\n"
        "choices = Choices.of(model_path=sys.argv[1], load_format='dummy', platform='cpu')\n"
        "resolve(choices, found=lambda source, path: print(source.name, path, 'torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["dummy", str(folder), "False"]


@pytest.mark.parametrize(
    ("generation", "model", "ends"),
    [
        ({"eos_token_id": 7}, {"eos_token_id": 3}, 7),
        ({}, {"eos_token_id": [3, 4]}, [3, 4]),
        ({"temperature": 1, "eos_token_id": None}, {"eos_token_id": 0}, 0),
        ({"eos_token_id": []}, {"text_config": {"eos_token_id": 5}}, 5),
        ({}, {"eos_token_id": 2, "text_config": {"eos_token_id": 5}}, 2),
        ({}, {"text_config": None}, None),
    ],
)
def test_end_tokens_are_the_models_configurations_where_the_generation_configuration_names_none(
    generation: dict[str, Any], model: dict[str, Any], ends: Any
) -> None:
    assert with_end_tokens(generation, model) == {**generation, "eos_token_id": ends}


@pytest.mark.parametrize(("generation", "ends"), [({}, {5, 6}), ({"eos_token_id": 7}, {7})])
def test_a_frontend_ends_answers_at_the_declared_tokens(generation: dict[str, Any], ends: set[int]) -> None:
    plan = make_plan()
    plan = replace(plan, hf_config={**plan.hf_config, "eos_token_id": [5, 6]})
    frontend = Frontend(plan, lambda message: None, lambda: None, Checkpoint(generation, None))
    assert frontend.eos_ids == ends
