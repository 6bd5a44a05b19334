"""From a plan to a server that answers, and back to nothing in an orderly way."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn

from sgcore.config import ServerOptions
from sgcore.errors import LaunchError
from sgcore.memory import give_back
from sgcore.plugins.manager import load_hooks
from sgcore.plugins.observers import Observers
from sgcore.plugins.plan import Plan
from sgcore.server.app import build_app
from sgcore.server.connection import protocol
from sgcore.server.service import Service

if TYPE_CHECKING:
    from sgcore.engine.client import CoreProcess

log = logging.getLogger(__name__)
FAREWELL_S = 2
"""How long connections may take to close once no request runs."""
KEEP_ALIVE_S = 75
"""Longer than load balancers keep theirs (60 s), so that they don't reuse one that is being closed."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
MAX_RESTARTS, RESTART_WINDOW_S = 3, 600.0
"""A device that is lost more often in so many seconds is not one that a new process finds in order."""


def serve(plan: Plan, core: CoreProcess | None = None) -> int:
    """Serve until a signal or the core's death; returns the exit code. Raises `LaunchError` if it can't start.

    `core`: the one that made the plan; without it, one is started.
    The socket listens from the first moment, and `/health` answers 503 until the core is ready.
    """
    options = server_options(plan)
    logging.basicConfig(level=options.log_level.upper(), format="[%(asctime)s] %(message)s", stream=sys.stderr)
    listener = listen(options.host, options.port)
    hooks = load_hooks(plan.choices.plugins)
    observers = Observers(hooks)
    service = Service(options, observer=observers.finished)
    app = build_app(service, hooks, plan.choices.plugins.route_plugin)
    server = CoreServer(app, service, plan, listener, core)
    try:
        server.run(sockets=[listener])
    finally:
        listener.close()
        server.close()
        observers.close(timeout_s=1.0)
    if server.start_error is not None:
        raise server.start_error
    return server.exit_code or (INTERRUPTED if server.is_interrupted else 0)


def server_options(plan: Plan) -> ServerOptions:
    """The server's options with what plugins gave as defaults."""
    decided = {name: plan.options[name] for name in ServerOptions.model_fields if name in plan.options}
    decided.pop("api_key", None)
    return plan.choices.server.model_copy(update=decided)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `LaunchError` if the port is taken or the address isn't this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        number = error.errno or 0
        reason = os.strerror(number) if number > 0 else "no such address"
        raise LaunchError(
            f"can't listen on {host}, port {port}: {reason}", "choose another with --host or --port"
        ) from error
    except OverflowError as error:
        raise LaunchError(f"{port} is no port") from error


class CoreServer(uvicorn.Server):
    """uvicorn, ended by a signal after the running requests, or by the core's death."""

    def __init__(
        self, app: Any, service: Service, plan: Plan, listener: socket.socket, core: CoreProcess | None
    ) -> None:
        config = uvicorn.Config(
            app,
            loop="uvloop" if sys.platform != "win32" else "auto",
            http=protocol(service.options),
            lifespan="off",  # nothing of it is used, and an end by force would log that it was cut
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=FAREWELL_S,
        )
        super().__init__(config)
        self.service = service
        self.plan, self.core = plan, core
        self.port: int = listener.getsockname()[1]
        self.exit_code = 0
        self.is_interrupted = False
        self.start_error: BaseException | None = None
        self.deadline = 0.0
        self._frontend: Any = None
        self._losses: deque[float] = deque(maxlen=MAX_RESTARTS)
        self._restart, self._ended = threading.Event(), threading.Event()
        self._starter = threading.Thread(target=self._keep_core, name="sgcore-start", daemon=True)
        self._starter.start()

    def _keep_core(self) -> None:
        """Start the core, and another one where its device is lost."""
        try:
            self._start_core()
            announce(self._frontend, self.service, self.port)
            while self._restart.wait() and not self._ended.is_set():
                self._restart.clear()
                self._frontend.close()
                self._start_core()
                log.warning("the engine core has started again")
        except BaseException as error:
            self.start_error = error
        self._ended.wait()

    def _start_core(self) -> None:
        from sgcore.engine.client import start_core_process

        core, self.core = self.core, None
        self._frontend = core.serve(self.plan) if core else start_core_process(self.plan, wait=False)
        self._frontend.wait_ready()
        self.service.attach(self._frontend)
        gc.freeze()  # or a full collection visits every object of the libraries, and all streams wait for it
        give_back()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: drain. Second: end now; the core's process ends with this one."""
        if sig == signal.SIGINT and self.is_interrupted:
            os._exit(INTERRUPTED)
        if sig == signal.SIGINT:
            self.is_interrupted = True
            os.write(2, f"\n{self._farewell()}\n".encode())  # a handler must not enter a stream that is being written
        if self.service.is_stopping or not self.service.is_started:
            self.should_exit = self.force_exit = True
        self.service.is_stopping = True
        self.deadline = time.monotonic() + self.service.options.shutdown_timeout

    def _farewell(self) -> str:
        waits = self.service.in_flight if self.service.is_started else 0
        if not waits:
            return "interrupted"
        limit_s = self.service.options.shutdown_timeout
        return (
            f"interrupted: {waits} requests have {limit_s:g} s to end (--shutdown-timeout); Ctrl-C again ends at once"
        )

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: is there a reason to end?"""
        if self.start_error is not None:
            self.should_exit = True
        elif self.service.failure is not None and not self.exit_code:
            self._core_died(self.service.failure)
        elif self.exit_code:
            self.should_exit = True  # a tick later, so that running requests get their answer
        elif self.service.is_stopping:
            self._drain()
        self.service.log_load()
        return await super().on_tick(counter)

    def _core_died(self, reason: str) -> None:
        """Start another core if a device was lost, which a new process may find in order; else end."""
        now = time.monotonic()
        is_often = len(self._losses) == MAX_RESTARTS and now - self._losses[0] < RESTART_WINDOW_S
        if self._frontend.is_device_lost and not is_often and not self.service.is_stopping:
            log.error("the engine core starts again: %s", reason)
            self._losses.append(now)
            self.service.restarts(reason)
            self._restart.set()
        else:
            log.error("the engine core has died: %s", reason)
            self.exit_code = 1

    def _drain(self) -> None:
        is_late = time.monotonic() >= self.deadline
        if is_late and self.service.in_flight:
            log.warning("aborting %d requests after --shutdown-timeout", self.service.in_flight)
            self._frontend.abort(everything=True)
        self.should_exit = self.should_exit or is_late or not self.service.in_flight

    def close(self) -> None:
        """End the core."""
        if self._frontend is not None:
            self._frontend.close()
        self._ended.set()
        self._restart.set()


def announce(frontend: Any, service: Service, port: int) -> None:
    """Print the start table, the address and a command to try."""
    name = service.model_name(frontend)  # also of a server that is about to end
    sys.stdout.write(banner(frontend.report, name, service.options, port))
    sys.stdout.flush()


def banner(report: Sequence[tuple[str, str]], name: str, options: ServerOptions, port: int) -> str:
    """What the operator sees when the server is ready."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(options.host, options.host)
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    url = f"http://{host}:{port}"
    width = max((len(what) for what, _ in report), default=0)
    key = "" if options.api_key is None else " -H 'authorization: Bearer YOUR_KEY'"
    asked = '"messages": [{"role": "user", "content": "What is the capital of France?"}]'
    body = f'{{"model": "{name}", {asked}, "max_tokens": 64, "temperature": 0}}'
    lines = [f"{what:<{width}}  {value}" for what, value in report]
    lines += [
        "",
        f"Serving {name} at {url}",
        f"Try: curl {url}/v1/chat/completions{key} -H 'content-type: application/json' -d '{body}'",
        "The server is fired up and ready to roll!",
    ]
    return "\n".join(lines) + "\n"
