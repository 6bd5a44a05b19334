"""Which layers a checkpoint leaves unquantised, by the lists of names in its configuration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sgcore.errors import LaunchError


def is_named(layer: str, names: Iterable[str]) -> bool:
    """Whether a name is the layer's, that of a module around it, or consecutive components of its path."""
    return any(f".{name.strip('.')}." in f".{layer}." for name in names if name)


def agree(parts: Sequence[str], is_skipped: Sequence[bool]) -> bool:
    """Whether all parts of a fused layer are left out; raises `LaunchError` where only some are."""
    if len(set(is_skipped)) > 1:
        left = ", ".join(part for part, skipped in zip(parts, is_skipped, strict=True) if skipped)
        raise LaunchError(
            f"the quantization leaves out {left} and not the rest of {', '.join(parts)}, which are computed together",
            "quantise all of them or none",
        )
    return is_skipped[0]


def is_skipped(parts: Sequence[str], names: Iterable[str]) -> bool:
    """Whether a layer of these parts is in a list of names; raises `LaunchError` where only some parts are."""
    listed = tuple(names)
    return agree(parts, [is_named(part, listed) for part in parts])
