"""A chat template that takes its time holds up the conversations that need it, and nobody else."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2

from sgcore.tokenizer.renderer import PROCESSES
from tests.server.conftest import running
from tests.server.fake import ByteTokenizer, FakeFrontend


class SlowTokenizer(ByteTokenizer):
    """Renders when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go_on = threading.Event()
        self.begun = threading.Semaphore(0)

    def apply_chat_template(self, messages: list[dict[str, Any]], **kwargs: Any) -> str:
        self.begun.release()
        self.may_go_on.wait(60)
        return super().apply_chat_template(messages, **kwargs)


def test_others_are_answered_while_templates_render() -> None:
    frontend = FakeFrontend()
    tokenizer = frontend.tokenizer = SlowTokenizer()
    chat = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
    with running(frontend) as url, ThreadPoolExecutor(8) as pool:
        slow = [pool.submit(httpx2.post, f"{url}/v1/chat/completions", json=chat, timeout=60) for _ in range(6)]
        try:
            for _ in range(PROCESSES):
                assert tokenizer.begun.acquire(timeout=20)
            assert httpx2.get(f"{url}/health", timeout=20).status_code == 200
            body = {"prompt": "long text " * 1000, "max_tokens": 1}  # tokenised in a thread
            assert httpx2.post(f"{url}/v1/completions", json=body, timeout=20).status_code == 400
            assert httpx2.post(f"{url}/tokenize", json={"prompt": "long text " * 1000}, timeout=20).status_code == 200
        finally:
            tokenizer.may_go_on.set()
        assert [reply.result().status_code for reply in slow] == [200] * 6
