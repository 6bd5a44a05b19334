"""The scripts of `bench/` run and write what they print; their figures are nobody's business here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench"


def run(script: str, tmp_path: Path, *words: str) -> tuple[str, Any]:
    """What it printed and wrote."""
    file = tmp_path / "record.json"
    done = subprocess.run(
        [sys.executable, BENCH / f"{script}.py", "--output", str(file), *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(file.read_text())


def test_sizes(tmp_path: Path) -> None:
    printed, record = run("sizes", tmp_path)
    rows = {row["package"]: row for row in record["tables"]["Core"]}
    parts = [row["lines"] for name, row in rows.items() if name.startswith("sgcore/")]
    assert sum(parts) == rows["sgcore, all"]["lines"] > rows["sgcore, all"]["code"] > 1000
    assert "| sgcore/engine |" in printed


SUITES = {
    "models": "ModelSuite", "attention": "AttentionSuite", "platforms": "PlatformSuite",
    "quantization": "QuantSuite", "weights": "WeightSourceSuite", "parsers": "FormatSuite",
    "grammars": "GrammarSuite", "primitives": "PrimitiveSuite",
}  # fmt: skip
COMPUTES_NOTHING = "hardware/null"
PACKS_FILES_ALONE = "quant/gguf"
"""Its scheme reads what its own files say; the suite of schemes writes safetensors."""


def test_the_core_knows_no_plugin_and_every_plugin_has_its_suites(tmp_path: Path) -> None:
    _, record = run("sizes", tmp_path)
    rows = record["tables"]["Seams"]
    assert len(rows) > 15 and all(row["places in the core"] == 0 for row in rows)
    for row in rows:
        kinds = {kind for kind in row["provides"].split(", ") if kind in SUITES}
        if row["plugin"] == COMPUTES_NOTHING:
            kinds.remove("attention")
        if row["plugin"] == PACKS_FILES_ALONE:
            kinds.remove("quantization")
        assert {SUITES[kind] for kind in kinds} <= set(row["suites"].split(", ")), row


def test_overhead(tmp_path: Path) -> None:
    few = ["--rows", "4", "--waiting", "0", "50", "--turns", "20", "--requests", "30"]
    printed, record = run("overhead", tmp_path, *few)
    tables = record["tables"]
    assert [len(rows) for rows in tables.values()] == [4, 4]
    assert all(0 < row["turn_ms"] <= row["turn_max_ms"] for rows in tables.values() for row in rows)
    assert "Steady decode" in printed


def test_parsing(tmp_path: Path) -> None:
    printed, record = run("parsing", tmp_path, "--tokens", "50", "--repeats", "1")
    rows = record["tables"]["Microseconds a token"]
    assert [row["answer"] for row in rows] == ["content", "reasoning", "arguments"]
    assert all(0 < row["us_a_token"] <= row["slowest_us"] for row in rows) and "transformers_us" in printed


@pytest.mark.parametrize("script", ["cpu", "startup", "memory", "export_sample", "structured", "lang", "quality"])
def test_help(script: str) -> None:
    done = subprocess.run([sys.executable, BENCH / f"{script}.py", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "usage:" in done.stdout


def test_fallback(tmp_path: Path) -> None:
    printed, record = run("fallback", tmp_path, "--passes", "1")
    rows = record["tables"]["Shape tiny"]
    assert len(rows) == 3 and all(row["same_tokens"] and row["speed"] > 0 for row in rows)
    assert "| prefill of 512 |" in printed
