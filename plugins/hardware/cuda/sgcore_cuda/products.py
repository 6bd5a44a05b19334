"""Which library multiplies a shape fastest: measured when a shape is first used, and kept on disk.

cuBLAS and cuBLASLt choose among the same kernels by heuristics of their own, and differ by up to 25 % on some shapes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from statistics import median

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

LIBRARIES = ("cublas", "cublaslt")
REPEATS = 7
CACHE_BYTES = 96 << 20
"""More than any device's L2: written between two measurements, so that the weight comes from memory."""
GRAINS = ((64, 8), (512, 32))
"""Up to so many tokens, multiples of so many stand for what is between them; above, powers of two."""

Shape = tuple[int, int, int]


class Products:
    """`linear` by the faster library for each (tokens, out, in)."""

    def __init__(self) -> None:
        self._chosen: dict[Shape, str] = {}
        self._file: Path | None = None
        self._scratch: Tensor | None = None

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(tokens, in) x (out, in) -> (tokens, out)."""
        shape = (_rounded(x.shape[0]), *weight.shape)
        library = self._chosen.get(shape)
        if library is None:
            library = self._choose(shape, lambda: F.linear(x, weight, bias))
        _use(library)
        return F.linear(x, weight, bias)

    def _choose(self, shape: Shape, multiply: Callable[[], Tensor]) -> str:
        if torch.cuda.is_current_stream_capturing():
            return LIBRARIES[0]
        self._load()
        if shape not in self._chosen:
            times = {library: self._time(library, multiply) for library in LIBRARIES}
            self._chosen[shape] = min(times, key=times.__getitem__)
            self._save()
        return self._chosen[shape]

    def _time(self, library: str, multiply: Callable[[], Tensor]) -> float:
        """Milliseconds of one product whose weight is not in the cache."""
        if self._scratch is None:
            self._scratch = torch.empty(CACHE_BYTES, dtype=torch.uint8, device="cuda")
        _use(library)
        multiply()
        marks = []
        for _ in range(REPEATS):
            self._scratch.zero_()
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            multiply()
            end.record()
            marks.append((begin, end))
        # Not the whole device: another engine of the process may be capturing.
        marks[-1][1].synchronize()
        return median(begin.elapsed_time(end) for begin, end in marks)

    def _load(self) -> None:
        if self._file is not None:
            return
        self._file = cache_file()
        try:
            known = msgspec.json.decode(self._file.read_bytes(), type=dict[str, str])
            for key, library in known.items():
                tokens, rows, size = map(int, key.split("x"))
                if library in LIBRARIES:
                    self._chosen.setdefault((tokens, rows, size), library)
        except (OSError, ValueError):  # not there, or damaged: it is written again
            return

    def _save(self) -> None:
        """Write a new file and put it in place at once: another process may do the same."""
        assert self._file is not None
        record = {"x".join(map(str, shape)): library for shape, library in sorted(self._chosen.items())}
        new = self._file.with_suffix(f".{os.getpid()}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps(record))
            new.replace(self._file)
        except OSError:
            new.unlink(missing_ok=True)


_active = ""
"""The library that torch uses: it has one choice for the whole process."""


def _use(library: str) -> None:
    global _active
    if library != _active:
        torch.backends.cuda.preferred_blas_library(library)
        _active = library


def cache_file() -> Path:
    """One for each device and torch."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    device = torch.cuda.get_device_name().replace(" ", "-")
    return root / "sgcore" / f"products-{device}-{torch.__version__}.json"


def _rounded(tokens: int) -> int:
    grain = next((grain for most, grain in GRAINS if tokens <= most), 1 << (tokens - 1).bit_length())
    return -(-tokens // grain) * grain
