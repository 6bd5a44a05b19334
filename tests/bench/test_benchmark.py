"""`sgcore bench` against a real server over a fake engine: tokens are bytes, and answers repeat the prompt."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sgcore import cli
from sgcore.benchmark import main
from sgcore.benchmark.client import Reply, Work, _events, run_load
from sgcore.benchmark.report import format_table, summarize
from sgcore.errors import LaunchError
from tests.server.conftest import running
from tests.server.fake import FakeFrontend

SIZES = ["--random-input-len", "40", "--random-output-len", "6", "--random-range-ratio", "1"]
KEYS = {
    *("backend", "dataset_name", "request_rate", "max_concurrency", "random_input_len", "random_output_len"),
    *("duration", "completed", "total_input_tokens", "total_output_tokens", "request_throughput", "concurrency"),
    *("input_throughput", "output_throughput", "total_throughput", "p90_e2e_latency_ms", "max_itl_ms", "p95_itl_ms"),
    *(f"{which}_{name}_ms" for which in ("mean", "median", "std", "p99") for name in ("ttft", "tpot", "itl")),
    *(f"{which}_e2e_latency_ms" for which in ("mean", "median", "std", "p99")),
}
"""What readers of SGLang's records look for."""


@pytest.fixture
def frontend() -> FakeFrontend:
    return FakeFrontend()


@pytest.fixture
def url(frontend: FakeFrontend) -> Iterator[str]:
    with running(frontend) as address:
        yield address


def record(tmp_path: Path, url: str, *words: str, code: int = 0) -> dict[str, Any]:
    """Run the command; its last record."""
    file = tmp_path / "records.jsonl"
    assert main(["--base-url", url, "--output-file", str(file), *words]) == code
    return dict(json.loads(file.read_text().splitlines()[-1]))


@pytest.mark.parametrize("backend", ["sgcore", "openai", "openai-chat"])
def test_every_backend_gives_the_same_record(
    backend: str, tmp_path: Path, url: str, frontend: FakeFrontend, capsys: pytest.CaptureFixture[str]
) -> None:
    found = record(tmp_path, url, "--backend", backend, "--num-prompts", "5", *SIZES)
    assert set(found) >= KEYS
    assert (found["completed"], found["failed"], found["total_output_tokens"]) == (5, 0, 30)
    assert 0 < found["median_ttft_ms"] <= found["median_e2e_latency_ms"] <= found["p99_e2e_latency_ms"]
    printed = capsys.readouterr().out
    assert "Successful requests:                     5" in printed and "Median TTFT (ms):" in printed
    asked = [prompt.sampling for prompt in frontend.prompts]
    assert len(asked) == 6 and all(one.ignore_eos and one.temperature == 0 for one in asked)


@pytest.mark.parametrize("backend", ["sgcore", "openai"])
def test_prompts_have_exactly_the_asked_tokens(backend: str, tmp_path: Path, url: str, frontend: FakeFrontend) -> None:
    found = record(tmp_path, url, "--backend", backend, "--num-prompts", "4", "--warmup-requests", "0", *SIZES)
    assert found["total_input_tokens"] == 160
    assert [len(frontend._ids(prompt)) for prompt in frontend.prompts] == [40] * 4


def test_lengths_are_drawn_from_the_range(tmp_path: Path, url: str, frontend: FakeFrontend) -> None:
    sizes = ["--random-input-len", "40", "--random-output-len", "8", "--random-range-ratio", "0.5"]
    record(tmp_path, url, "--num-prompts", "30", *sizes)
    lengths = {len(prompt.input_ids or []) for prompt in frontend.prompts}
    assert len(lengths) > 5 and min(lengths) >= 20 and max(lengths) <= 40


@pytest.mark.parametrize("backend", ["sgcore", "openai"])
def test_groups_share_their_prefix(backend: str, tmp_path: Path, url: str, frontend: FakeFrontend) -> None:
    groups = ["--gsp-num-groups", "2", "--gsp-prompts-per-group", "3", "--gsp-output-len", "2"]
    lengths = ["--gsp-system-prompt-len", "30", "--gsp-question-len", "20", "--warmup-requests", "0"]
    name = ["--backend", backend, "--dataset-name", "generated-shared-prefix"]
    found = record(tmp_path, url, *name, *groups, *lengths)
    ids = [frontend._ids(prompt) for prompt in frontend.prompts]
    assert found["completed"] == 6 and {len(one) for one in ids} == {50}
    assert sorted(Counter(tuple(one[:30]) for one in ids).values()) == [3, 3]
    assert len({tuple(one) for one in ids}) == 6


def test_a_seed_gives_the_same_prompts(tmp_path: Path, url: str, frontend: FakeFrontend) -> None:
    for seed in ("1", "1", "2"):
        record(tmp_path, url, "--num-prompts", "1", "--warmup-requests", "0", "--seed", seed, *SIZES)
    first, same, other = [prompt.input_ids for prompt in frontend.prompts]
    assert first == same != other
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == 3


def test_a_file_of_prompts(tmp_path: Path, url: str, frontend: FakeFrontend) -> None:
    file = tmp_path / "work.jsonl"
    file.write_text('{"prompt": "ab", "max_tokens": 3, "note": "\u2028"}\n\n{"prompt": [97], "max_tokens": 2}\n')
    found = record(tmp_path, url, "--backend", "openai", "--dataset-path", str(file), "--warmup-requests", "0")
    assert (found["dataset_name"], found["total_input_tokens"], found["total_output_tokens"]) == ("custom", 4, 5)
    file.write_text('{"text": "ab"}\n')
    with pytest.raises(LaunchError, match="KeyError"):
        record(tmp_path, url, "--dataset-path", str(file))


def test_without_a_tokenizer_ids_are_sent(tmp_path: Path, url: str, frontend: FakeFrontend) -> None:
    frontend.tokenizer = None
    assert record(tmp_path, url, "--num-prompts", "2", *SIZES)["total_input_tokens"] == 80
    with pytest.raises(LaunchError) as caught:
        record(tmp_path, url, "--num-prompts", "2", "--backend", "openai", *SIZES)
    assert "--tokenizer" in caught.value.hint


def test_failures_are_counted_and_the_first_is_shown(
    tmp_path: Path, url: str, frontend: FakeFrontend, capsys: pytest.CaptureFixture[str]
) -> None:
    frontend.limit, frontend.step_s = 1, 0.02
    found = record(tmp_path, url, "--num-prompts", "4", *SIZES)
    assert found["completed"] == 1 and found["failed"] == 3
    assert "3 requests failed; the first: status 429" in capsys.readouterr().err
    frontend.limit = 0
    found = record(tmp_path, url, "--num-prompts", "2", "--warmup-requests", "0", *SIZES, code=1)
    assert found["completed"] == 0 and found["mean_ttft_ms"] == 0
    with pytest.raises(LaunchError, match="warm-up request failed: status 429"):
        record(tmp_path, url, "--num-prompts", "2", *SIZES)


def test_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--base-url", "http://127.0.0.1:9", "--num-prompts", "1"]) == 1
    printed = capsys.readouterr().err
    assert "no answer from http://127.0.0.1:9" in printed and "sgcore serve" in printed


def test_the_cache_is_flushed_after_the_warm_up(tmp_path: Path, url: str, frontend: FakeFrontend) -> None:
    prompts_before: list[int] = []

    async def flush() -> bool:
        prompts_before.append(len(frontend.prompts))
        return True

    frontend.flush_cache = flush  # type: ignore[method-assign]
    record(tmp_path, url, "--num-prompts", "2", "--warmup-requests", "2", "--flush-cache", *SIZES)
    assert prompts_before == [2] and len(frontend.prompts) == 4


class Recorder:
    """Stands for a client: notes when requests begin and how many are under way."""

    def __init__(self) -> None:
        self.begins: list[float] = []
        self.running = self.most = 0

    async def send(self, work: Work) -> Reply:
        self.begins.append(asyncio.get_running_loop().time())
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.01)
        self.running -= 1
        return Reply()


WORK = [Work([1], 1, 1)] * 12


@pytest.mark.parametrize("most", [1, 3, None])
def test_no_more_than_max_concurrency_run(most: int | None) -> None:
    recorder = Recorder()
    replies = asyncio.run(run_load(recorder, WORK, float("inf"), most, 1))  # type: ignore[arg-type]
    assert len(replies) == 12 and recorder.most == (most or 12)


def test_arrivals_are_poisson() -> None:
    recorder, draw = Recorder(), random.Random(5)
    asyncio.run(run_load(recorder, WORK, 100.0, None, 5))  # type: ignore[arg-type]
    asked = [draw.expovariate(100.0) for _ in WORK][:-1]
    gaps = np.diff(recorder.begins)
    assert all(gap >= wanted - 0.002 for gap, wanted in zip(gaps, asked, strict=True))


def test_figures_equal_numpys() -> None:
    draw = random.Random(1)
    replies = [
        Reply(10, 3, "", 1.0, [(1.0 + a, 1), (2.0 + a, 1), (4.0 + b, 1)])
        for a, b in [(draw.random(), draw.random() + 1) for _ in range(50)]
    ]
    found = summarize([*replies, Reply(error="no")], duration_s=10.0)
    ttft = np.array([reply.arrivals[0][0] - 1.0 for reply in replies]) * 1000
    latency = np.array([reply.arrivals[2][0] - 1.0 for reply in replies]) * 1000
    itl = np.array([np.diff([at for at, _ in reply.arrivals]) for reply in replies]).ravel() * 1000
    for name, values in {"ttft": ttft, "e2e_latency": latency, "tpot": (latency - ttft) / 2, "itl": itl}.items():
        assert found[f"mean_{name}_ms"] == pytest.approx(values.mean())
        assert found[f"std_{name}_ms"] == pytest.approx(values.std())
        assert found[f"p99_{name}_ms"] == pytest.approx(np.percentile(values, 99))
    assert found["max_itl_ms"] == pytest.approx(itl.max())
    assert (found["failed"], found["output_throughput"], found["total_throughput"]) == (1, 15.0, 65.0)
    assert found["concurrency"] == pytest.approx(latency.sum() / 1000 / 10)


def test_tokens_that_come_together_share_the_wait() -> None:
    assert Reply(1, 4, "", 0.0, [(1.0, 1), (4.0, 3)]).gaps_s() == [1.0, 1.0, 1.0]


def test_the_table_has_a_line_for_each_figure() -> None:
    about = {"backend": "openai", "request_rate": "inf", "max_concurrency": None}
    table = format_table({**about, **summarize([Reply(1, 1, "", 0.0, [(1.0, 1)])], 1.0)})
    for label in ("Mean E2E Latency (ms):", "P99 TTFT (ms):", "Median TPOT (ms):", "P95 ITL (ms):", "Max ITL (ms):"):
        assert f"{label:<40} " in table
    assert len({len(line) for line in table.splitlines() if line[0] in "-="}) == 1


def test_events_survive_every_split() -> None:
    whole = 'data: {"a": "é\u2028\x85"}\n\ndata: {"a": 2}\r\n\n: comment\n\ndata: [DONE]\n\n'.encode()

    class Response:
        def __init__(self, cut: int) -> None:
            self.parts = [whole[:cut], whole[cut:]]

        async def aiter_bytes(self) -> AsyncIterator[bytes]:
            for part in self.parts:
                yield part

    async def read(cut: int) -> list[Any]:
        return [event async for event in _events(Response(cut))]  # type: ignore[arg-type]

    assert all(asyncio.run(read(cut)) == [{"a": "é\u2028\x85"}, {"a": 2}] for cut in range(len(whole) + 1))


def test_no_torch_is_imported() -> None:
    script = "import sys, sgcore.benchmark; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
