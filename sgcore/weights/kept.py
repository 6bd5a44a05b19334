"""Quantised layers on disk, so that weights which are quantised at start are quantised once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from sgcore.api import Build, WeightSource
from sgcore.errors import LaunchError
from sgcore.layers.linear import Embedding, Linear
from sgcore.layers.parameters import replace
from sgcore.plugins.plan import Plan

log = logging.getLogger(__name__)

FORMAT = 2
"""Of the files; part of the key."""
ALIGNMENT = 64
"""Bytes: the widest vector."""
PROBE = (256, (64, 32))
"""Features of the small layer that shows what a scheme makes of weights, and in which layout."""
APART = "bias"
"""The parameter that is the layer's own, not its method's."""
DAMAGES = (OSError, SafetensorError, KeyError, ValueError)
"""What reading a file raises that isn't there, isn't whole, or isn't of this layer."""


class _About(msgspec.Struct):
    """What a file says of its layer."""

    name: str
    shapes: dict[str, list[int]]
    turned: list[str]
    """Matrices that were transposed when they were written."""
    dropped: list[str]
    """Parameters that the layer has no more."""


class KeptLayers:
    """A folder with a file for each layer; it appears once it is whole. A disk that fails only costs the cache.

    A file of it that is missing or damaged is written again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.exists = os.path.isdir(folder)
        self._unfinished: Path | None = None
        self._is_broken = False
        self._damaged: set[str] = set()

    def read(self, name: str, layer: Linear | Embedding, device: torch.device) -> bool:
        """Give a layer the parameters that were kept of it, mapped from the file on the host; False: there are none."""
        file = self._file(self.folder, name)
        try:
            tensors, dropped = _read(file, name, device)
        except DAMAGES as error:
            log.warning("%s can't be used, and is written again: %s: %s", file, type(error).__name__, error)
            self._damaged.add(name)
            return False
        for parameter in [name for name, _ in layer.stored.named_parameters(recurse=False) if name != APART]:
            delattr(layer.stored, parameter)
        for parameter, tensor in tensors.items():
            replace(layer.stored, parameter, tensor)
        for parameter in dropped:
            replace(layer.stored, parameter, None)
        return True

    def write(self, name: str, layer: nn.Module) -> None:
        """Keep a layer's parameters."""
        if self._is_broken or (self.exists and name not in self._damaged):
            return
        try:
            if self.exists:
                self._rewrite(name, layer)
                return
            if self._unfinished is None:
                self.folder.parent.mkdir(parents=True, exist_ok=True)
                self._unfinished = Path(tempfile.mkdtemp(prefix=f"{self.folder.name}.", dir=self.folder.parent))
            self._file(self._unfinished, name).write_bytes(_serialised(name, layer))
        except OSError as error:
            log.warning("quantised weights are not cached: %s", error)
            self._is_broken = True

    def _rewrite(self, name: str, layer: nn.Module) -> None:
        """Put a file in the place of a damaged one, which another process may be reading."""
        file = self._file(self.folder, name)
        if file.is_dir():
            shutil.rmtree(file)
        handle, new = tempfile.mkstemp(dir=self.folder)
        try:
            with os.fdopen(handle, "wb") as opened:
                opened.write(_serialised(name, layer))
            os.replace(new, file)
        finally:
            Path(new).unlink(missing_ok=True)

    @staticmethod
    def _file(folder: Path, name: str) -> Path:
        return folder / f"{name}.safetensors"

    def close(self, is_whole: bool) -> None:
        """Let the folder appear, if all of it is there and nobody else was faster."""
        if self._unfinished is None:
            return
        try:
            if is_whole and not self._is_broken:
                if self.folder.is_file():
                    self.folder.unlink()
                self._unfinished.rename(self.folder)
        except OSError as error:
            log.debug("%s is there already, or can't be: %s", self.folder, error)
        finally:
            shutil.rmtree(self._unfinished, ignore_errors=True)


def _read(file: Path, name: str, device: torch.device) -> tuple[dict[str, torch.Tensor], list[str]]:
    """A file's parameters, and the names of those that the layer has no more. Raises one of `DAMAGES`."""
    opened: Any = safe_open(file, "pt", str(device))
    about = msgspec.json.decode((opened.metadata() or {})["layer"], type=_About)
    tensors = {parameter: opened.get_tensor(parameter) for parameter in opened.keys()}  # noqa: SIM118
    if about.name != name or about.shapes != {parameter: list(tensor.shape) for parameter, tensor in tensors.items()}:
        raise ValueError(f"it holds {about.name} with {about.shapes}")
    return {key: tensor.T if key in about.turned else tensor for key, tensor in tensors.items()}, about.dropped


def _serialised(name: str, layer: nn.Module) -> bytes:
    """A safetensors file whose first tensor is aligned."""
    tensors = {name: tensor.data for name, tensor in layer.named_parameters(recurse=False) if name != APART}
    turned = [name for name, tensor in tensors.items() if tensor.dim() == 2 and not tensor.is_contiguous()]
    tensors = {name: (tensor.T if name in turned else tensor).contiguous() for name, tensor in tensors.items()}
    attributes = {**vars(layer), **layer._parameters}
    dropped = [name for name, value in attributes.items() if value is None and name != APART and name[0] != "_"]
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    about = {"layer": msgspec.json.encode(_About(name, shapes, turned, dropped)).decode(), "padding": ""}
    header = 8 + int.from_bytes(save(tensors, about)[:8], "little")
    return save(tensors, about | {"padding": " " * (-header % ALIGNMENT)})


def kept_layers(plan: Plan, source: WeightSource, build: Build) -> KeptLayers | None:
    """The cache of weights that `plan` quantises at start; None: it doesn't, or nothing may be kept."""
    is_online = plan.quantization is not None and not plan.hf_config.get("quantization_config")
    files = source.files() if is_online and not plan.options["disable_quantization_cache"] else ()
    probed = _probe(build) if files else None
    if probed is None:
        return None
    made_of = {
        "format": FORMAT,
        "files": [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files],
        "config": dict(plan.hf_config),
        "drivers": [str(driver) for driver in (plan.model, plan.platform, plan.quantization)],
        "dtype": plan.dtype,
        "probe": probed,
    }
    key = hashlib.sha256(json.dumps(made_of, sort_keys=True, default=str).encode()).hexdigest()[:32]
    return KeptLayers(cache_folder() / key)


def cache_folder() -> Path:
    """`sgcore/quantized` where the user keeps caches."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sgcore" / "quantized"


def _probe(build: Build) -> str | None:
    """A digest of what the scheme makes of a small layer: other rounding or another layout is another cache."""
    features, parts = PROBE
    try:
        layer = Linear(build, features, parts, name="probe")
        if not layer.method.is_cacheable:
            return None
        numbers = torch.randn(sum(parts), features, generator=torch.Generator().manual_seed(0))
        layer.weight.data.copy_(numbers)  # type: ignore[operator]
        layer.finish()
    except LaunchError:
        return None
    digest = hashlib.sha256()
    for name, tensor in layer.named_parameters():
        digest.update(f"{name} {tensor.dtype} {tensor.shape} {tensor.stride()}".encode())
        digest.update(tensor.data.contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return digest.hexdigest()


def is_kept(layer: Linear | Embedding) -> bool:
    """Whether a layer's quantised weight is cached."""
    return layer.method.is_cacheable and (isinstance(layer, Linear) or layer.is_tied)
