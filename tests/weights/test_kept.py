"""Layers that were quantised at a start are had from disk at the next one, and nothing else is."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, save
from transformers import LlamaConfig

from sgcore import Engine
from sgcore.config import Choices
from sgcore.layers.linear import Linear
from sgcore.plugins.plan import Plan
from sgcore.plugins.resolve import resolve
from sgcore.testing.checkpoints import write_checkpoint
from sgcore.weights import kept
from sgcore.weights.kept import KeptLayers, cache_folder, kept_layers

pytest.importorskip("sgcore_integer")
pytest.importorskip("sgcore_llama")
pytest.importorskip("sgcore_cpu")
CONFIG = LlamaConfig(
    vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
    max_position_embeddings=64, tie_word_embeddings=True, attention_bias=True,
)  # fmt: skip
PROMPT = [5, 17, 80, 33]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_checkpoint(CONFIG, tmp_path / "model")
    return tmp_path / "model"


def answer(folder: Path, **options: Any) -> Any:
    usual = {"platform": "cpu", "skip_tokenizer_init": True, "quantization": "int4", "max_total_tokens": 64}
    with Engine(model_path=str(folder), **{**usual, **options}) as engine:
        sampling = {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True}
        return engine.generate(input_ids=PROMPT, sampling_params=sampling, return_logprob=True)["meta_info"][
            "output_token_logprobs"
        ]


def entries() -> list[Path]:
    return list(cache_folder().glob("*"))


def test_the_second_start_quantises_nothing_and_answers_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = answer(folder)
    (entry,) = entries()
    assert {file.stem for file in entry.iterdir()} == {
        "model.embed_tokens",
        *(
            f"model.layers.{layer}.{name}"
            for layer in range(2)
            for name in ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
        ),
    }
    finished = []
    finish = Linear.finish
    monkeypatch.setattr(Linear, "finish", lambda layer: (finished.append(layer), finish(layer)))
    assert answer(folder) == first
    assert len(finished) == 1, "the probe alone"
    assert entries() == [entry]


def test_nothing_is_kept_where_the_user_says_so_or_nothing_is_quantised(folder: Path) -> None:
    kept_one = answer(folder, disable_quantization_cache=True)
    answer(folder, quantization=None)
    assert entries() == []
    assert answer(folder) == kept_one and len(entries()) == 1


def planned(folder: Path, **options: Any) -> Plan:
    usual = {"platform": "cpu", "skip_tokenizer_init": True, "quantization": "int4"}
    return resolve(Choices.of(model_path=str(folder), **{**usual, **options}))


def place(plan: Plan) -> Path:
    """Where a plan's layers are kept."""
    from sgcore.api import Build

    assert plan.quantization is not None
    scheme = plan.quantization.load().from_config({})
    build = Build(plan.platform.load()().kernels(), getattr(torch, plan.dtype), torch.device("cpu"), scheme)
    found = kept_layers(plan, plan.source.load()(plan.path), build)
    assert found is not None
    return found.folder


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: os.utime(plan.path / "model.safetensors", (1, 1)),
        lambda plan: planned(plan.path, quantization="int8"),
        lambda plan: planned(plan.path, json_model_override_args='{"rope_theta": 7}'),
        lambda plan: replace(plan, dtype="float64"),
        lambda plan: replace(plan, platform=replace(plan.platform, version="0")),
    ],
    ids=["the file", "the scheme", "the configuration", "the type", "the platform's version"],
)
def test_the_key_has(folder: Path, change: Callable[[Plan], Plan | None]) -> None:
    plan = planned(folder)
    before = place(plan)
    assert place(planned(folder)) == before
    assert place(change(plan) or plan) != before


def test_the_key_has_what_the_scheme_makes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sgcore.layers import rounding

    before = place(planned(folder))
    round_between = rounding.round_between
    monkeypatch.setattr(rounding, "round_between", lambda weight: round_between(weight * 1.01))
    assert place(planned(folder)) != before


@pytest.fixture
def layer() -> Linear:
    from sgcore.api import Build
    from sgcore.kernels import Kernels

    return Linear(Build(Kernels(), torch.float32, torch.device("cpu")), 8, 4)


def test_of_two_writers_one_wins_and_nothing_is_left_over(tmp_path: Path, layer: Linear) -> None:
    first, second = KeptLayers(tmp_path / "key"), KeptLayers(tmp_path / "key")
    for writer in (first, second):
        writer.write("a", layer)
    assert not (tmp_path / "key").exists()
    first.close(is_whole=True)
    second.close(is_whole=True)
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert KeptLayers(tmp_path / "key").exists


def test_what_is_not_whole_does_not_appear(tmp_path: Path, layer: Linear) -> None:
    writer = KeptLayers(tmp_path / "key")
    writer.write("a", layer)
    writer.close(is_whole=False)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fails_costs_the_cache_alone(
    tmp_path: Path, layer: Linear, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    writer = KeptLayers(tmp_path / "file" / "key")
    with caplog.at_level(logging.WARNING):
        writer.write("a", layer)
        writer.write("b", layer)
    writer.close(is_whole=True)
    assert len(caplog.records) == 1 and "quantised weights are not cached" in caplog.text


def test_tensors_begin_where_vectors_may(layer: Linear) -> None:
    data = kept._serialised("a", layer)
    assert (8 + int.from_bytes(data[:8], "little")) % kept.ALIGNMENT == 0


def damage(file: Path, how: str) -> None:
    data = file.read_bytes()
    file.unlink()
    if how == "truncated":
        file.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        file.touch()
    elif how == "garbage":
        file.write_bytes(os.urandom(len(data)))
    elif how == "a folder":
        (file / "inside").mkdir(parents=True)
    elif how == "dangling":
        file.symlink_to("/no/such/file")
    elif how == "of another layer":
        (other,) = file.parent.glob("model.layers.1.mlp.down_proj.*")
        file.write_bytes(other.read_bytes())
    elif how == "other shapes":
        opened = safe_open(_written(file, data), "pt")
        tensors = {name: opened.get_tensor(name)[:1].clone() for name in opened.keys()}  # noqa: SIM118
        file.write_bytes(save(tensors, opened.metadata()))
    elif how == "no metadata":
        file.write_bytes(save(load(data)))
    elif how == "odd metadata":
        file.write_bytes(save(load(data), {"layer": '{"turned": 3}'}))


def _written(file: Path, data: bytes) -> Path:
    aside = file.parent.parent.parent / "aside"
    aside.write_bytes(data)
    return aside


DAMAGE = [
    "truncated", "empty", "garbage", "a folder", "dangling", "of another layer", "other shapes", "no metadata",
    "odd metadata", "missing",
]  # fmt: skip


def test_a_damaged_file_is_ignored_with_a_line_and_written_again(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = answer(folder)
    (entry,) = entries()
    file = entry / "model.layers.0.mlp.down_proj.safetensors"
    whole, files = load(file.read_bytes()), {path.name for path in entry.iterdir()}
    for how in DAMAGE:
        damage(file, how)
        caplog.clear()
        assert answer(folder) == expected, how
        assert caplog.text.count("can't be used, and is written again") == 1 and str(file) in caplog.text, how
        assert {path.name for path in entry.iterdir()} == files, how
        assert all(torch.equal(tensor, whole[name]) for name, tensor in load(file.read_bytes()).items()), how


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser reads everything")
def test_an_unreadable_file_is_written_again(folder: Path) -> None:
    expected = answer(folder)
    (entry,) = entries()
    for file in entry.iterdir():
        file.chmod(0)
    assert answer(folder) == expected
    assert all(os.access(file, os.R_OK) for file in entry.iterdir())


def test_a_file_in_place_of_the_folder_gives_way(folder: Path) -> None:
    expected = answer(folder)
    (entry,) = entries()
    shutil.rmtree(entry)
    entry.write_text("no folder")
    assert answer(folder) == expected
    assert entry.is_dir() and entries() == [entry]
