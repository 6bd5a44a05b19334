"""Errors of an installation that lacks something say what to install, for the model that was asked for."""

from __future__ import annotations

import json

import pytest

from sgcore.config import Choices
from sgcore.errors import LaunchError
from sgcore.plugins import packages
from sgcore.plugins.drivers import KINDS, missing
from sgcore.plugins.resolve import resolve


def refusal(site, **options) -> LaunchError:
    with pytest.raises(LaunchError) as caught:
        resolve(Choices.of(**options), installed=site.installed(), hooks=site.hooks())
    return caught.value


@pytest.mark.parametrize(
    ("config", "command"),
    [
        ({"architectures": ["Qwen3ForCausalLM"]}, "pip install sgcore-qwen"),
        (
            {"architectures": ["LlamaForCausalLM"], "quantization_config": {"quant_method": "awq"}},
            "pip install sgcore-llama sgcore-awq",
        ),
        ({"architectures": ["NobodyForCausalLM"]}, "pip install sgcore-transformers"),
    ],
)
def test_the_core_alone_names_everything_that_a_folder_needs(site, tmp_path, config, command):
    (tmp_path / "config.json").write_text(json.dumps(config))
    error = refusal(site, model_path=str(tmp_path))
    assert str(error) == "no platform is installed, so nothing computes"
    assert "sgcore-cpu (" in error.hint and "sgcore-cuda (" in error.hint and "sgcore-null" not in error.hint
    assert error.hint.endswith(f"; and {command}")


def test_the_core_alone_names_what_a_file_needs_and_fetches_nothing(site, tmp_path):
    (tmp_path / "model.gguf").touch()
    assert "sgcore-gguf" in refusal(site, model_path=str(tmp_path / "model.gguf")).hint
    assert "sgcore-cpu" in refusal(site, model_path="someone/something").hint
    assert "no such model" in str(refusal(site, model_path="/no/such/folder"))


def test_a_file_that_nothing_reads_names_its_reader(site, tmp_path):
    site.install("p-one", {"sgcore.platforms": {"fast": "m:Fast"}})
    (tmp_path / "model.gguf").touch()
    assert refusal(site, model_path=str(tmp_path / "model.gguf")).hint == "pip install sgcore-gguf"


@pytest.mark.parametrize(
    ("kind", "name", "hint"),
    [
        ("model", "Qwen2ForCausalLM", "pip install sgcore-qwen, or for any architecture, pip install sgcore-"),
        ("model", "Nobody", "install the plugin that has it, or for any architecture, pip install sgcore-transformers"),
        ("quantization", "gptq", "pip install sgcore-gptq"),
        ("platform", "cuda", "pip install sgcore-cuda"),
        ("parser", "hermes", "pip install sgcore-parsers"),
        ("grammar", "nobody", "install the plugin that has it"),
    ],
)  # fmt: skip
def test_a_name_that_nobody_offers(site, kind, name, hint):
    assert missing(kind, name, site.installed()).hint.startswith(hint)


def test_every_driver_of_the_repository_is_found():
    groups = {kind.group for kind in KINDS.values()}
    named = {group for about in packages.index().values() for group in about if group.startswith("sgcore.")}
    assert groups <= named


def test_a_missing_dependency_is_no_bug():
    said = packages.unexpected(ModuleNotFoundError("No module named 'safetensors'", name="safetensors"))
    assert (str(said), said.hint) == ("No module named 'safetensors'", "pip install 'sgcore[engine]'")
    assert "bug" not in packages.unexpected(ModuleNotFoundError("No module named 'x'", name="x")).hint
    assert packages.unexpected(KeyError("a")).hint == packages.BUG
