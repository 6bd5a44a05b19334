"""The server under Poisson load on an accelerator: latency percentiles while long prompts arrive among decoding rows.

Starts `sgcore serve` with random weights of a shape of offline.py and runs `sgcore bench` against it once a rate.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import httpx2
from harness import arguments, free_port, report
from offline import model_dir

READY_LIMIT_S = 300.0
SHORT, LONG = 512, 4096
LONG_SHARE = 0.2
OUTPUT = 200
SHOWN = ("median_ttft_ms", "p99_ttft_ms", "median_itl_ms", "p90_itl_ms", "p99_itl_ms", "output_throughput")


def write_requests(path: Path, count: int, seed: int) -> None:
    """Random ids: mostly `SHORT` tokens, `LONG_SHARE` of them `LONG`."""
    draw = random.Random(seed)
    with path.open("w") as file:
        for _ in range(count):
            tokens = LONG if draw.random() < LONG_SHARE else SHORT
            ids = [draw.randrange(100, 32000) for _ in range(tokens)]
            file.write(json.dumps({"prompt": ids, "max_tokens": OUTPUT}) + "\n")


def start(asked: Namespace, port: int, log: Path) -> subprocess.Popen[bytes]:
    flags = ["--load-format", "dummy", "--skip-tokenizer-init", "--dtype", "bfloat16", "--port", str(port)]
    command = [sys.executable, "-m", "sgcore.cli", "serve", model_dir(asked.shape), *flags, *asked.serve_args.split()]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    deadline = time.monotonic() + READY_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx2.get(f"http://127.0.0.1:{port}/ready", timeout=5).status_code == 200:
                return process
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
    process.kill()
    raise RuntimeError(f"the server did not become ready:\n{log.read_text()[-2000:]}")


def load(port: int, requests: Path, count: int, rate: float, folder: Path) -> dict[str, Any]:
    record = folder / f"{rate}.jsonl"
    command = [sys.executable, "-m", "sgcore.cli", "bench", "--port", str(port), "--dataset-path", str(requests)]
    sent = ["--num-prompts", str(count), "--request-rate", str(rate), "--output-file", str(record)]
    subprocess.run([*command, *sent], check=True, stdout=subprocess.DEVNULL)
    return dict(json.loads(record.read_text().splitlines()[-1]))


def parse() -> Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--shape", default="llama8b", help="a shape of offline.py")
    parser.add_argument("--rates", default="2,4,8", help="requests a second, one run each")
    parser.add_argument("--seconds", type=float, default=20.0, help="about how long each run sends requests")
    parser.add_argument("--serve-args", default="", help="further flags of `sgcore serve`")
    return parser.parse_args()


def main() -> int:
    asked = parse()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        process = start(asked, port, folder / "server.log")
        try:
            write_requests(folder / "warm.jsonl", 64, 1)
            load(port, folder / "warm.jsonl", 64, 12.0, folder)
            for number, rate in enumerate(map(float, asked.rates.split(","))):
                count = max(20, int(rate * asked.seconds))
                write_requests(folder / "load.jsonl", count, 10 + number)
                record = load(port, folder / "load.jsonl", count, rate, folder)
                ratio = record["p99_itl_ms"] / record["median_itl_ms"]
                rows.append({"rate": rate, "requests": count, **{k: record[k] for k in SHOWN}, "p99_of_median": ratio})
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
    title = f"{asked.shape}: {SHORT} tokens in, {LONG_SHARE:.0%} of the prompts {LONG}, {OUTPUT} out"
    report(f"gpu_serving_{asked.shape}", {title: rows}, asked.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
