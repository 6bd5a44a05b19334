"""`sgcore bench`: load on a running server, with the options and the output of SGLang's bench_serving."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import httpx2

from sgcore.benchmark.client import PATHS, Client, Work, run_load
from sgcore.benchmark.prompts import Prompts, Tokens, make_work
from sgcore.benchmark.report import format_table, summarize
from sgcore.errors import LaunchError

FLUSH_WAIT_S = 10
"""How long the server may wait for the warm-up to be over."""


async def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """Make the prompts, warm up, send the load. Raises LaunchError if the server can't be reached or asked."""
    headers = {"authorization": f"Bearer {asked.api_key}"} if asked.api_key else {}
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    base = asked.base_url or f"http://{asked.host}:{asked.port}"
    async with httpx2.AsyncClient(base_url=base, headers=headers, timeout=None, limits=limits, trust_env=False) as http:
        try:
            model = asked.model or await _first_model(http)
            tokens = Tokens(http, asked.model or "", asked.tokenizer)
            work = await make_work(asked, Prompts(tokens, asked.backend, random.Random(asked.seed)))
            client = Client(http, asked.backend, model, not asked.disable_ignore_eos)
            return {**_described(asked, model), **await _loaded(asked, client, work)}
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            hint = "start one with `sgcore serve MODEL`, or give its address with --base-url"
            raise LaunchError(f"no answer from {base}: {error}", hint) from error


async def _loaded(asked: argparse.Namespace, client: Client, work: list[Work]) -> dict[str, Any]:
    if not work:
        raise LaunchError("there is nothing to send", "is --num-prompts 0, or the data set empty?")
    for reply in [await client.send(work[0]) for _ in range(asked.warmup_requests)]:
        if reply.error:
            raise LaunchError(f"the warm-up request failed: {reply.error}")
    if asked.flush_cache:
        (await client.http.post("/flush_cache", params={"timeout": FLUSH_WAIT_S})).raise_for_status()
    start = time.perf_counter()
    replies = await run_load(client, work, asked.request_rate, asked.max_concurrency, asked.seed)
    duration_s = time.perf_counter() - start
    first_error = next((reply.error for reply in replies if reply.error), None)
    return {**summarize(replies, duration_s), "first_error": first_error}


async def _first_model(http: httpx2.AsyncClient) -> str:
    response = await http.get("/v1/models")
    response.raise_for_status()
    return str(response.json()["data"][0]["id"])


RECORDED = ("random_input_len", "random_output_len", "random_range_ratio", "max_concurrency", "num_prompts", "seed")


def _described(asked: argparse.Namespace, model: str) -> dict[str, Any]:
    rate = "inf" if asked.request_rate == float("inf") else asked.request_rate
    data = "custom" if asked.dataset_path else asked.dataset_name
    described = {"backend": asked.backend, "model": model, "dataset_name": data, "request_rate": rate}
    return described | {name: getattr(asked, name) for name in RECORDED}


def main(argv: list[str]) -> int:
    """Run `sgcore bench`; returns 1 if no request succeeded."""
    asked = parser().parse_args(argv)
    record = asyncio.run(measure(asked))
    print(format_table(record))
    if record["first_error"]:
        print(f"error: {record['failed']} requests failed; the first: {record['first_error']}", file=sys.stderr)
    if asked.output_file:
        with Path(asked.output_file).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    return 0 if record["completed"] else 1


FLAGS: tuple[tuple[str, Any, str], ...] = (
    ("base-url", None, "Address of the server; overrides --host and --port."),
    ("host", "127.0.0.1", "Host of the server."),
    ("port", 30000, "Port of the server."),
    ("api-key", None, "The server's key; SGCORE_API_KEY by default."),
    ("model", None, "The model's name; the server's first by default."),
    ("tokenizer", None, "Folder, tokenizer.json or hub id that prompts are made with; the server's by default."),
    ("dataset-path", None, 'JSONL file of {"prompt": text or token ids, "max_tokens": n}; overrides --dataset-name.'),
    ("num-prompts", 1000, "Requests of a random or read data set."),
    ("random-input-len", 1024, "Longest prompt in tokens."),
    ("random-output-len", 1024, "Longest answer in tokens."),
    ("random-range-ratio", 0.0, "Lengths are drawn from this share of the longest up to it; 1: all the longest."),
    ("gsp-num-groups", 64, "Groups that share a prefix."),
    ("gsp-prompts-per-group", 16, "Requests of a group."),
    ("gsp-system-prompt-len", 2048, "Tokens that a group shares."),
    ("gsp-question-len", 128, "Tokens of a request's own."),
    ("gsp-output-len", 256, "Tokens to generate."),
    ("request-rate", float("inf"), "Requests a second, Poisson; inf: all at once."),
    ("max-concurrency", None, "Most requests under way; no limit by default."),
    ("seed", 1, "Seed of prompts and arrivals."),
    ("warmup-requests", 1, "Requests before the measurement."),
    ("output-file", None, "JSONL file that the record is appended to."),
)
"""Names and defaults are those of SGLang's bench_serving."""
WHOLE = ("max-concurrency",)
"""Flags without a default that are whole numbers."""


def parser() -> argparse.ArgumentParser:
    """The command line of `sgcore bench`."""
    made = argparse.ArgumentParser("sgcore bench", description="Measure a running server.")
    made.add_argument("--backend", choices=sorted(PATHS), default="sgcore", help="Route and format of the requests.")
    names = ("random", "generated-shared-prefix")
    made.add_argument("--dataset-name", choices=names, default="random", help="What the prompts are made of.")
    for name, default, text in FLAGS:
        kind = int if name in WHOLE else str if default is None else type(default)
        shown = "" if default is None else f" [default: {default}]"
        made.add_argument(f"--{name}", type=kind, default=default, help=text + shown)
    made.add_argument("--disable-ignore-eos", action="store_true", help="Answers may end before their length.")
    made.add_argument("--flush-cache", action="store_true", help="Empty the server's prefix cache after the warm-up.")
    made.set_defaults(api_key=os.environ.get("SGCORE_API_KEY"))
    return made
