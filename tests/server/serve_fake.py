"""`launch.serve` over a fake engine, in a process of its own: PORT START_SECONDS SHUTDOWN_TIMEOUT."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import sgcore.engine.client
from sgcore.errors import LaunchError
from sgcore.server.launch import serve
from tests.server.fake import FakeFrontend, make_plan


def main(port: str, start_s: str, shutdown_timeout: str) -> int:
    class SlowFrontend(FakeFrontend):
        def wait_ready(self) -> None:
            time.sleep(abs(float(start_s)))
            if float(start_s) < 0:
                raise LaunchError("no memory", "buy more")

    frontend = SlowFrontend(step_s=0.05)
    signal.signal(signal.SIGUSR1, lambda *_: setattr(frontend, "failure", "killed"))

    def start(plan: Any, wait: bool = True) -> FakeFrontend:
        return frontend

    sgcore.engine.client.start_core_process = start  # type: ignore[assignment]
    try:
        return serve(make_plan(port=int(port), shutdown_timeout=float(shutdown_timeout)))
    except LaunchError as error:
        print("refused:", error, "/", error.hint, flush=True)
        return error.exit_code


if __name__ == "__main__":
    os._exit(main(*sys.argv[1:]))
