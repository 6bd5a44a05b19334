"""`launch.serve` over a fake engine, in a process of its own: PORT START_SECONDS SHUTDOWN_TIMEOUT.

SIGUSR1 ends the engine, SIGUSR2 loses its device.
"""

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

    started: list[SlowFrontend] = []

    def start(plan: Any, wait: bool = True) -> FakeFrontend:
        started.append(SlowFrontend(step_s=0.05))
        return started[-1]

    def fail(number: int, frame: Any) -> None:
        started[-1].is_device_lost = number == signal.SIGUSR2
        started[-1].failure = "device lost" if started[-1].is_device_lost else "killed"

    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, fail)

    sgcore.engine.client.start_core_process = start  # type: ignore[assignment]
    try:
        return serve(make_plan(port=int(port), shutdown_timeout=float(shutdown_timeout)))
    except LaunchError as error:
        print("refused:", error, "/", error.hint, flush=True)
        return error.exit_code


if __name__ == "__main__":
    os._exit(main(*sys.argv[1:]))
