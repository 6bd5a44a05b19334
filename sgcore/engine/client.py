"""A frontend and its core: in a thread of this process, or in a process of its own over ZeroMQ and msgpack."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import zmq

from sgcore.config import Choices
from sgcore.engine.checkpoint import CheckpointAhead
from sgcore.engine.frontend import Frontend
from sgcore.engine.messages import Command, Failed, Found, FromCore, Planned, ToCore
from sgcore.engine.sockets import SocketFolder
from sgcore.errors import LaunchError, RequestError
from sgcore.plugins.plan import Plan

SHUTDOWN = Command(0, "shutdown")


class ThreadChannel:
    """Messages as objects between two threads."""

    def __init__(self) -> None:
        self.inbox: queue.SimpleQueue[ToCore] = queue.SimpleQueue()
        self.frontend: Frontend | None = None

    def receive(self, timeout_s: float) -> Sequence[ToCore]:
        messages: list[ToCore] = []
        with contextlib.suppress(queue.Empty):
            messages.append(self.inbox.get(timeout_s > 0, timeout_s or None))
            while True:
                messages.append(self.inbox.get_nowait())
        return messages

    def send(self, message: FromCore) -> None:
        assert self.frontend is not None
        self.frontend.on_message(message)

    def close(self) -> None:
        return None


def start_core_thread(plan: Plan) -> Frontend:
    """A core in a thread of this process, ready to serve."""
    from sgcore.engine.core import run_core

    channel = ThreadChannel()
    thread = threading.Thread(target=run_core, args=(plan, channel), name="sgcore-core", daemon=True)

    def close() -> None:
        channel.inbox.put(SHUTDOWN)
        thread.join(timeout=30)

    def send(*messages: ToCore) -> None:
        for message in messages:
            channel.inbox.put(message)

    frontend = Frontend(plan, send, close)
    channel.frontend = frontend
    thread.start()
    frontend.wait_ready()
    return frontend


class SocketChannel:
    """The core's side of a pair of ipc sockets: typed msgpack, nothing else."""

    def __init__(self, folder: str) -> None:
        context: zmq.Context[Any] = zmq.Context.instance()
        self._incoming, self._outgoing = context.socket(zmq.PULL), context.socket(zmq.PUSH)
        for socket, name in ((self._incoming, "to-core"), (self._outgoing, "from-core")):
            socket.set_hwm(0)
            socket.linger = 2000
            socket.connect(f"ipc://{folder}/{name}")
        self._decoder = msgspec.msgpack.Decoder(ToCore)
        self._encoder = msgspec.msgpack.Encoder()
        self._send_lock = threading.Lock()

    def receive(self, timeout_s: float) -> Sequence[ToCore]:
        messages = []
        if timeout_s == 0 or self._incoming.poll(int(timeout_s * 1000)):
            with contextlib.suppress(zmq.Again):
                while True:
                    messages.append(self._decoder.decode(self._incoming.recv(zmq.NOBLOCK)))
        return messages

    def send(self, message: FromCore | Found | Planned) -> None:
        with self._send_lock:
            self._outgoing.send(self._encoder.encode(message))

    def close(self) -> None:
        """Wait briefly for the last messages to leave."""
        self._incoming.close(0)
        self._outgoing.close(2000)
        zmq.Context.instance().term()


class CoreProcess:
    """The frontend's side: starts the process, reads its messages in a thread, notices its death."""

    def __init__(self, given: Mapping[str, Any], checkpoint: CheckpointAhead | None = None) -> None:
        """`given`: what `sgcore.engine.process` reads; `checkpoint`: who wants to know where the checkpoint is."""
        self.folder = SocketFolder()
        context: zmq.Context[Any] = zmq.Context.instance()
        self._outgoing, self._incoming = context.socket(zmq.PUSH), context.socket(zmq.PULL)
        for socket, name in ((self._outgoing, "to-core"), (self._incoming, "from-core")):
            socket.set_hwm(0)
            socket.linger = 0
            socket.bind(f"ipc://{self.folder.path}/{name}")
        self._encoder = msgspec.msgpack.Encoder()
        self._send_lock = threading.Lock()
        self._is_closing = False
        self._reader: threading.Thread | None = None
        self._checkpoint = checkpoint
        self.process = start_owned(
            [sys.executable, "-m", "sgcore.engine.process", str(self.folder.path), str(os.getpid())]
        )
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self.process.stdin as stdin:  # its exit is noticed by who waits
            stdin.write(json.dumps(given))

    def planned(self) -> Plan:
        """The plan of a core that was started with choices. Raises `LaunchError` with its reason if it has none."""
        message = self._told()
        if isinstance(message, Found):
            if self._checkpoint is not None:
                self._checkpoint.found(message.source, Path(message.path))
            message = self._told()
        if isinstance(message, Planned):
            return Plan.from_json(message.plan)
        assert isinstance(message, Failed)
        error = LaunchError(message.message, message.detail, message.exit_code)
        error.add_note(message.trace)
        raise error

    def _told(self) -> Found | Planned | Failed:
        """The next message of a core that makes a plan."""
        while not self._incoming.poll(200):
            if self.process.poll() is not None:
                raise LaunchError(describe_exit(self.process.returncode))
        told: Found | Planned | Failed = msgspec.msgpack.decode(self._incoming.recv(), type=Found | Planned | Failed)
        return told

    def serve(self, plan: Plan) -> Frontend:
        """Its frontend; from now on messages are read."""
        ahead = None if self._checkpoint is None else self._checkpoint.get(plan.options)
        self.frontend = Frontend(plan, self.send, self.close, ahead)
        self._reader = threading.Thread(target=self._read, name="sgcore-receive", daemon=True)
        self._reader.start()
        return self.frontend

    def send(self, *messages: ToCore) -> None:
        """Encode and send, all or none; safe from any thread. Raises RequestError for what can't be encoded."""
        try:
            encoded = [self._encoder.encode(message) for message in messages]
        except (ValueError, OverflowError, TypeError) as error:  # half a character, an integer of more than 64 bits
            raise RequestError(f"the request can't be passed to the engine core: {error}") from error
        with self._send_lock, contextlib.suppress(zmq.ZMQError):  # it is closed: nobody waits for an answer
            self._await_peer()
            for each in encoded:
                self._outgoing.send(each, zmq.NOBLOCK)

    def _await_peer(self) -> None:
        """Wait for a core that has not connected yet; one that has ended, or is about to, never will."""
        while not self._outgoing.poll(100, zmq.POLLOUT) and self.process.poll() is None:
            pass

    def _read(self) -> None:
        decoder = msgspec.msgpack.Decoder(FromCore)
        while True:
            if self._incoming.poll(200):
                self.frontend.on_message(decoder.decode(self._incoming.recv()))
            elif self.process.poll() is not None:
                break
        if not self._is_closing:
            self.frontend.fail(Failed(describe_exit(self.process.returncode)))

    def close(self) -> None:
        """Ask the core to end, then insist; one that plans or loads would not listen, and is not asked."""
        if self._is_closing:
            return
        self._is_closing = True
        if self._reader is None or not self.frontend.has_started:
            self.process.kill()
        with self._send_lock:
            self._await_peer()
        if self.process.poll() is None:
            self.send(SHUTDOWN)
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self._reader is not None:
            self._reader.join(timeout=5)
        for socket in (self._outgoing, self._incoming):
            socket.close()
        self.folder.remove()


def start_owned(command: Sequence[str]) -> subprocess.Popen[str]:
    """Start a process, in a process group of its own, from a thread that stays until it has ended.

    A child that asks the kernel to end with its parent is ended with the thread that started it.
    """
    started: Future[subprocess.Popen[str]] = Future()

    def own() -> None:
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, process_group=0)
        except BaseException as error:
            started.set_exception(error)
        else:
            started.set_result(process)
            process.wait()

    threading.Thread(target=own, name="sgcore-core-owner", daemon=True).start()
    return started.result()


def describe_exit(code: int) -> str:
    """What a process's return code says."""
    if code >= 0:
        return f"the core process ended with exit code {code}"
    return f"the core process was killed by {signal.Signals(-code).name}"


def start_core_process(plan: Plan, wait: bool = True) -> Frontend:
    """A core in a process of its own; ready to serve when this returns, unless `wait` is false."""
    core = CoreProcess({"plan": plan.to_json()})
    frontend = core.serve(plan)
    if wait:
        try:
            frontend.wait_ready()
        except BaseException:
            core.close()
            raise
    return frontend


def start_planning_core(choices: Choices, origins: Mapping[str, str]) -> tuple[Plan, CoreProcess]:
    """A core that makes the plan itself, so that one process alone imports what plans are made with, and only once.

    Raises `LaunchError` for anything that the user can mend.
    """
    public = choices.model_dump(exclude={"server": {"api_key"}}, exclude_unset=True)
    core = CoreProcess({"choices": public, "origins": dict(origins)}, CheckpointAhead(choices.public()))
    try:
        plan = core.planned()
    except BaseException:
        core.close()
        raise
    server = plan.choices.server.model_copy(update={"api_key": choices.server.api_key})
    decided = plan.choices.model_copy(update={"server": server})
    return replace(plan, choices=decided, options={**plan.options, **decided.public()}), core
