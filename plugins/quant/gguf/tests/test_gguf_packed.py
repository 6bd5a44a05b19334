"""Layers that are multiplied by the file's own integers mean what the gguf package says they do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from sgcore import Engine
from sgcore.api import Build
from sgcore.kernels import Kernels
from sgcore.layers.linear import Linear
from sgcore.testing.checkpoints import log_probabilities
from sgcore.testing.quantization import rounding_tolerance
from sgcore_gguf.header import TensorInfo, read_header
from sgcore_gguf.packed import KINDS, packed_layers, packed_tensors
from sgcore_gguf.scheme import GGUFScheme
from sgcore_gguf.source import GGUFSource

Q = GGMLQuantizationType
ROWS, COLUMNS = 24, 512
TOLERANCE = 2e-3
"""Of a log-probability."""


def blocks(kind: GGMLQuantizationType) -> np.ndarray:
    """Random bytes, less the blocks that mean no finite numbers; one block means nothing but zeros."""
    size, size_bytes = GGML_QUANT_SIZES[kind]
    count = ROWS * COLUMNS // size
    raw = np.random.default_rng(0).integers(0, 256, (8 * count, size_bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        values = np.abs(quants.dequantize(raw, kind))
        usual = np.isfinite(values).all(axis=1) & (values.max(axis=1) < 1e3) & (values.max(axis=1) > 1e-3)
    raw = raw[usual][:count]
    raw[5] = 0
    return raw.reshape(ROWS, -1)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_integers_scales_and_zeros_are_the_files_numbers(kind: GGMLQuantizationType) -> None:
    raw = blocks(kind)
    fields = packed_tensors(raw.reshape(-1), TensorInfo("w", (ROWS, COLUMNS), kind, 0, raw.nbytes))
    zeros = fields.get("zeros", np.float32(1 << (KINDS[kind].bits - 1)))
    groups = fields["values"].astype(np.float32).reshape(ROWS, -1, KINDS[kind].group)
    wide = (groups - np.asarray(zeros)[..., None]) * fields["scales"][..., None]
    expected = quants.dequantize(raw, kind)
    np.testing.assert_allclose(wide.reshape(ROWS, COLUMNS), expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def tiny_file(
    write_gguf: Any, numbers: Any, gguf_tensors: Any, kinds: dict[str, Any], usual: Any, **changes: Any
) -> Path:
    """A small Llama; layers of the type `usual`, or that of their part in `kinds`."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.LlamaConfig(**sizes, num_key_value_heads=2, vocab_size=199, eos_token_id=1, **changes)
    model = transformers.LlamaForCausalLM(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    tensors: dict[str, Any] = gguf_tensors("llama", config, parameters)
    for name, array in tensors.items():
        kind = kinds.get(name.split(".")[-2], usual)
        if array.ndim == 2 and kind is not None:
            tensors[name] = (quants.quantize(array, kind), kind)
    return write_gguf("llama", numbers("llama", config), tensors)


def wide_model(path: Path) -> Any:
    source = GGUFSource(path)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**source.hf_config()))
    model.load_state_dict(dict(source.tensors()), strict=False)
    return model.eval()


@pytest.mark.parametrize("level", [None, "off"])
@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("kind", [Q.Q8_0, Q.Q4_0, Q.Q4_1], ids=lambda kind: kind.name)
def test_a_model_computes_as_with_wide_weights(
    kind: Any, is_tied: bool, level: str | None, write_gguf: Any, numbers: Any, gguf_tensors: Any, monkeypatch: Any
) -> None:
    if level is not None:
        monkeypatch.setenv("SGCORE_CPU_LEVEL", level)
    kinds = {"token_embd": Q.Q8_0, "ffn_down": Q.Q8_0, "attn_v": Q.Q5_0 if is_tied else kind}
    path = tiny_file(write_gguf, numbers, gguf_tensors, kinds, kind, tie_word_embeddings=is_tied)
    prompt = torch.randint(3, 199, (40,)).tolist()
    wanted = log_probabilities(wide_model(path), prompt)[torch.arange(len(prompt) - 1), torch.tensor(prompt[1:])]
    options = {"skip_tokenizer_init": True, "dtype": "float32", "max_total_tokens": 1024}
    params = {"max_new_tokens": 1, "temperature": 0.0}
    with Engine(model_path=str(path), **options) as engine:
        reply = engine.generate(input_ids=prompt, sampling_params=params, return_logprob=True, logprob_start_len=0)
    got = torch.tensor([entry[0] for entry in reply["meta_info"]["input_token_logprobs"][1:]])
    tolerance = max(TOLERANCE, rounding_tolerance(path, options))
    torch.testing.assert_close(got, wanted, atol=tolerance, rtol=0)


def test_parts_of_different_types_are_widened(write_gguf: Any, numbers: Any, gguf_tensors: Any) -> None:
    path = tiny_file(write_gguf, numbers, gguf_tensors, {"attn_v": Q.Q8_0, "output": Q.Q5_0, "ffn_up": None}, Q.Q4_1)
    layers = packed_layers(read_header(path))
    assert set(layers) == {f"model.layers.{i}.{name}" for i in (0, 1) for name in ("self_attn.o_proj", "mlp.down_proj")}
    stored = dict(GGUFSource(path).stored_tensors())
    assert stored["model.layers.0.self_attn.v_proj.weight"].dtype == torch.float32
    assert stored["model.layers.1.mlp.down_proj.values"].dtype == torch.uint8


class Narrow(Kernels):
    """Multiplies packed weights."""

    def multiplies_packed(self, zeros: torch.Tensor | None, group: int) -> bool:
        return True


@pytest.mark.parametrize("kernels, is_packed", [(Kernels(), False), (Narrow(), True)])
def test_weights_stay_packed_where_the_device_multiplies_them(kernels: Kernels, is_packed: bool) -> None:
    scheme = GGUFScheme({"a": "Q4_1"}, "Q8_0")
    layer = Linear(Build(kernels, torch.float32, torch.device("cpu"), scheme), 64, 8, name="a")
    raw = quants.quantize(np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32), Q.Q4_1)
    for name, array in packed_tensors(raw.reshape(-1), TensorInfo("a", (8, 64), Q.Q4_1, 0, raw.nbytes)).items():
        getattr(layer, name).data.copy_(torch.from_numpy(array))
    layer.finish()
    assert (layer.weight.dtype == torch.uint8) == is_packed
    x = torch.randn(3, 64)
    torch.testing.assert_close(layer(x), x @ torch.from_numpy(quants.dequantize(raw, Q.Q4_1)).T, atol=1e-4, rtol=1e-4)
