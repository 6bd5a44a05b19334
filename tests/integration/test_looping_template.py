"""A server whose chat template can loop: others are answered meanwhile, SIGTERM ends it, and nothing is left behind."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from tests.integration.serving import Server
from tests.integration.test_interrupts import SHAPE
from tests.server.test_openai import wait_until

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
TEMPLATE = "{% if messages[0].content == 'loop' %}" + LOOP + "{% endif %}a"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    words = Tokenizer(WordLevel({"a": 0, "<s>": 1, "</s>": 2, "?": 3}, unk_token="?"))
    PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE
    ).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    flags = ("--load-format", "dummy", "--shutdown-timeout", "0.5")
    started = Server(tmp_path / "log", *flags, model=tmp_path)
    yield started.wait_ready()
    started.process.kill()
    started.process.wait()


def renderers(server: Server) -> list[psutil.Process]:
    children = psutil.Process(server.process.pid).children()
    return [child for child in children if "render_process.py" in " ".join(child.cmdline())]


def ask(server: Server, content: str) -> httpx2.Response:
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 1}
    return httpx2.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)


def test_a_loop_harms_nobody_and_does_not_outlive_the_server(server: Server) -> None:
    assert not renderers(server)  # none before the first conversation
    replies: list[httpx2.Response] = []
    loop = threading.Thread(target=lambda: replies.append(ask(server, "loop")))
    loop.start()
    wait_until(lambda: renderers(server))
    assert httpx2.get(f"{server.url}/health", timeout=60).status_code == 200
    assert ask(server, "hi").status_code == 200
    loop.join()
    assert replies[0].status_code == 400
    error = replies[0].json()["error"]
    assert error["param"] == "messages" and error["message"].startswith(
        "the chat template refused the messages: it was"
    )

    unanswered = [threading.Thread(target=lambda: ask(server, "loop")) for _ in range(3)]
    for thread in unanswered:
        thread.start()
    wait_until(lambda: len(renderers(server)) == 2)
    children = psutil.Process(server.process.pid).children(recursive=True)
    assert server.stop() == 0
    for thread in unanswered:
        thread.join()
    wait_until(lambda: not any(child.is_running() for child in children))
