"""What a program says, without a model: for its constant beginning, and to look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sgcore.lang import Append, BeginTurn, EndTurn, Primitive, State, Steps, Together, word_of
from sgcore_lang.backend import Backend
from sgcore_lang.executor import Executor
from sgcore_lang.roles import Role, RoleBegin, RoleEnd

if TYPE_CHECKING:
    from sgcore_lang.program import SglFunction


class Unknown(Exception):
    """The trace has come to something that only a run can tell."""


class Placeholder(Primitive):
    """Stands for an argument or a variable. Can be added to text; what needs its value raises TypeError."""

    def __init__(self, kind: str, name: str | None) -> None:
        self.kind, self.name = kind, name

    def run(self, state: State) -> Steps:
        raise Unknown(f"{self.kind} {self.name!r}")
        yield Append("")

    def __format__(self, spec: str) -> str:
        raise TypeError(f"{self.kind} {self.name!r} has no value in a trace: add it with + instead of an f-string")

    def __str__(self) -> str:
        return self.__format__("")

    def __repr__(self) -> str:
        return f"{self.kind}({self.name})"


class TracerProgramState:
    """Records what a body adds. `nodes` holds words, and lists of tracers for forks."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.ret_value: Any = None

    def __iadd__(self, other: Primitive | str) -> TracerProgramState:
        word = word_of(other)
        self.nodes += word.words if isinstance(word, Together) else [word]
        return self

    def __getitem__(self, name: str) -> Placeholder:
        return Placeholder("variable", name)

    get_var = __getitem__

    def __setitem__(self, name: str, value: Any) -> None:
        return None

    set_var = __setitem__

    def system(self, expr: Any = None) -> Any:
        """A turn of the system."""
        return self._turn("system", expr)

    def user(self, expr: Any = None) -> Any:
        """A turn of the user."""
        return self._turn("user", expr)

    def assistant(self, expr: Any = None) -> Any:
        """A turn of the assistant."""
        return self._turn("assistant", expr)

    def _turn(self, role: str, expr: Any) -> Any:
        if expr is None:
            return self._turn_block(role)
        self.nodes.append(Role(role, word_of(expr)))
        return None

    @contextmanager
    def _turn_block(self, role: str) -> Iterator[None]:
        self.nodes.append(RoleBegin(role))
        yield
        self.nodes.append(RoleEnd(role))

    @contextmanager
    def var_scope(self, name: str) -> Iterator[None]:
        """Nothing to record."""
        yield

    def fork(self, size: int = 1, position_ids_offset: Any = None) -> TracerGroup:
        """Tracers for each fork."""
        group = TracerGroup([TracerProgramState() for _ in range(size)])
        self.nodes.append(group)
        return group

    def flatten(self) -> list[Any]:
        """All nodes in order, forks within."""
        found: list[Any] = []
        for node in self.nodes:
            found.append(node)
            if isinstance(node, TracerGroup):
                found += [inner for state in node.states for inner in state.flatten()]
        return found

    def print_graph_dfs(self) -> None:
        """Print the nodes, forks indented."""
        print("\n".join(self._lines("")))

    def _lines(self, indent: str) -> list[str]:
        lines = []
        for node in self.nodes:
            if isinstance(node, TracerGroup):
                for place, state in enumerate(node.states):
                    lines += [f"{indent}fork {place}:", *state._lines(indent + "  ")]
            else:
                lines.append(f"{indent}{_described(node)}")
        return lines


@dataclass
class TracerGroup:
    """Forks of a trace."""

    states: list[TracerProgramState]

    def __getitem__(self, place: int) -> TracerProgramState:
        return self.states[place]

    def __len__(self) -> int:
        return len(self.states)

    def __iadd__(self, other: Any) -> TracerGroup:
        for place, state in enumerate(self.states):
            if callable(other) and not isinstance(other, Primitive):
                state += other(place)
            else:
                state += other[place] if isinstance(other, list | tuple) else other
        return self

    def join(self, mode: str = "gather_variable") -> None:
        """Nothing to wait for."""


def _described(node: Any) -> str:
    return repr(node) if isinstance(node, Placeholder) else f"{type(node).__name__}({_words(vars(node))})"


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items() if value not in (None, {}, ()))


def trace(program: SglFunction, given: Mapping[str, Any]) -> TracerProgramState:
    """Run the body over placeholders. Raises what the body raises where it needs a value."""
    state = TracerProgramState()
    arguments = {name: given.get(name, Placeholder("argument", name)) for name in program.arg_names}
    state.ret_value = program.func(state, **arguments)
    return state


@dataclass
class Prefix:
    """The constant beginning of a program: its words, and their text without what stands around turns."""

    words: list[Primitive] = field(default_factory=list)
    text: str = ""


def prefix(program: SglFunction) -> Prefix:
    """Constant text and turns up to the first thing that only a run can tell."""
    found = Prefix()
    if program.is_async:
        return found
    tracer = _StopsAtForks()
    arguments = {n: program.bind_arguments.get(n, Placeholder("argument", n)) for n in program.arg_names}
    try:
        program.func(tracer, **arguments)
    except Exception:
        tracer.is_broken = True  # the body needed a value; what came before counts
    for node in tracer.nodes:
        requests, is_whole = _constants(node)
        found.words += [_Said(requests)]
        found.text += "".join(request.text for request in requests if isinstance(request, Append))
        if not is_whole:
            break
    return found


class _StopsAtForks(TracerProgramState):
    is_broken = False

    def fork(self, size: int = 1, position_ids_offset: Any = None) -> TracerGroup:
        raise Unknown("a fork")


def iter_as_steps(requests: Sequence[Any]) -> Steps:
    """Requests whose results nobody wants."""
    for request in requests:  # noqa: UP028, a list has no `send`
        yield request


class _Said(Primitive):
    """Requests as they were."""

    def __init__(self, requests: Sequence[Any]) -> None:
        self.requests = requests

    def run(self, state: State) -> Steps:
        yield from iter_as_steps(self.requests)


class _Nothing:
    """The state that words see in a trace."""

    variables: Mapping[str | None, Any] = {}
    role: str | None = None


def _constants(node: Primitive) -> tuple[list[Any], bool]:
    """The requests with which a word begins and that need no model, and whether they are all of it."""
    requests: list[Any] = []
    try:
        for request in node.run(_Nothing()):
            if not isinstance(request, Append | BeginTurn | EndTurn):
                return requests, False
            requests.append(request)
    except (Unknown, TypeError, AttributeError):
        return requests, False
    return requests, True


async def warm_up(program: SglFunction, backend: Backend, group: tuple[str, int] | None = None) -> None:
    """Have a backend compute the constant beginning; with a group it is kept until released."""
    found = prefix(program)
    if not found.text:
        return
    executor = Executor(backend, {})
    for word in found.words:
        executor.submit(word, None)
    if group is None:
        executor.submit(_Said([_nothing_more()]), None)
    await executor.settled()
    if group is not None:
        await executor.interpreter.flush(group)
    executor.raise_error()


def _nothing_more() -> Any:
    from sgcore.lang import Generate

    return Generate({"max_new_tokens": 0})
