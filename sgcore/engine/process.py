"""`python -m sgcore.engine.process FOLDER PARENT`: an engine core in a process of its own, child of process `PARENT`.

A JSON object on stdin has its `plan`, or the `choices` to make one of and their `origins`. What takes long to import is
imported once the process is bound to its parent.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sgcore.engine.client import SocketChannel
    from sgcore.plugins.plan import Plan

PR_SET_PDEATHSIG = 1
LOOK_EVERY_S = 1.0


def main() -> int:
    """Bind this process to its parent, leave Ctrl-C to it (the parent ends us), run."""
    end_with(int(sys.argv[2]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    return run(json.loads(sys.stdin.read()), sys.argv[1])


def end_with(parent: int) -> None:
    """Have this process end when its parent does, and now if the parent has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_EVERY_S)
        os.kill(os.getpid(), signal.SIGKILL)

    # The kernel's signal comes at once, but not for a parent that ended before it was asked for, nor on every system.
    if os.getppid() != parent:
        sys.exit(1)
    threading.Thread(target=look, name="sgcore-parent", daemon=True).start()


def run(given: Mapping[str, Any], folder: str) -> int:
    """Make the plan, if it isn't given, and compute until the frontend says stop; returns the exit code."""
    from sgcore.engine.client import SocketChannel
    from sgcore.engine.core import run_core

    channel = SocketChannel(folder)
    gc.disable()  # importing torch leaves no garbage, and looking for it takes a tenth of the time
    plan = made(given, channel)
    gc.enable()
    is_fine = False
    if plan is not None:
        level = str(plan.options.get("log_level") or "info").upper()
        logging.basicConfig(level=level, format="[%(asctime)s core] %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
        is_fine = run_core(plan, channel, owns_process=True)
    channel.close()
    return 0 if is_fine else 1


def made(given: Mapping[str, Any], channel: SocketChannel) -> Plan | None:
    """The plan that is given, or made of what is given; None: there can't be one, and the frontend knows why."""
    from sgcore.config import Choices
    from sgcore.engine.messages import Failed, Found, Planned
    from sgcore.errors import LaunchError
    from sgcore.plugins.plan import Plan
    from sgcore.plugins.resolve import resolve_aloud

    if "plan" in given:
        return Plan.from_json(given["plan"])
    try:
        plan = resolve_aloud(
            Choices.model_validate(given["choices"]),
            given["origins"],
            lambda source, path: channel.send(Found(source, str(path))),
        )
    except LaunchError as error:
        channel.send(Failed(str(error), error.hint, error.exit_code, traceback.format_exc()))
    except Exception as error:
        from sgcore.plugins.packages import unexpected

        said = unexpected(error)
        channel.send(Failed(str(said), said.hint, 1, traceback.format_exc()))
    else:
        channel.send(Planned(plan.to_json()))
        return plan
    return None


if __name__ == "__main__":
    sys.exit(main())
