"""`python -m sgcore.engine.process FOLDER`: an engine core in a process of its own; its plan comes as JSON on stdin."""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import os
import signal
import sys

from sgcore.engine.client import SocketChannel
from sgcore.engine.core import run_core
from sgcore.plugins.plan import Plan

PR_SET_PDEATHSIG = 1


def main() -> int:
    """Die with the parent, ignore the terminal's Ctrl-C (the parent ends us), run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.setpgid(0, 0)
    plan = Plan.from_json(sys.stdin.read())
    level = str(plan.options.get("log_level") or "info").upper()
    logging.basicConfig(level=level, format="[%(asctime)s core] %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    channel = SocketChannel(sys.argv[1])
    is_fine = run_core(plan, channel, owns_process=True)
    channel.close()
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
