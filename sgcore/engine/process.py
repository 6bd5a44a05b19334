"""`python -m sgcore.engine.process FOLDER`: an engine core in a process of its own.

A JSON object on stdin has its `plan`, or the `choices` to make one of and their `origins`.
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
import traceback
from collections.abc import Mapping
from typing import Any

from sgcore.config import Choices
from sgcore.engine.client import SocketChannel
from sgcore.engine.core import run_core
from sgcore.engine.messages import Failed, Found, Planned
from sgcore.errors import LaunchError
from sgcore.plugins.plan import Plan
from sgcore.plugins.resolve import resolve_aloud

PR_SET_PDEATHSIG = 1


def main() -> int:
    """Die with the parent, ignore the terminal's Ctrl-C (the parent ends us), run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.setpgid(0, 0)
    given = json.loads(sys.stdin.read())
    channel = SocketChannel(sys.argv[1])
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
        hint = "this is a bug in sgcore or in a plugin; --debug shows where"
        channel.send(Failed(f"{type(error).__name__}: {error}", hint, 1, traceback.format_exc()))
    else:
        channel.send(Planned(plan.to_json()))
        return plan
    return None


if __name__ == "__main__":
    sys.exit(main())
