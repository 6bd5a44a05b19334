"""Whose turn it is."""

from __future__ import annotations

from collections.abc import Sequence

from sgcore.lang import BeginTurn, EndTurn, Primitive, State, Steps, Together, word_of


class RoleBegin(Primitive):
    """A role's turn begins."""

    def __init__(self, role: str) -> None:
        self.role = role

    def run(self, state: State) -> Steps:
        yield BeginTurn(self.role)


class RoleEnd(Primitive):
    """A role's turn ends."""

    def __init__(self, role: str) -> None:
        self.role = role

    def run(self, state: State) -> Steps:
        yield EndTurn(self.role)


class Role(Primitive):
    """A whole turn."""

    def __init__(self, role: str, expr: Primitive) -> None:
        self.role = role
        self.expr = expr

    def run(self, state: State) -> Steps:
        yield BeginTurn(self.role)
        yield from self.expr.run(state)
        yield EndTurn(self.role)

    def names(self) -> Sequence[str | None]:
        return self.expr.names()


def _turn(role: str, expr: Primitive | str | None) -> Primitive:
    return Role(role, Together(()) if expr is None else word_of(expr))


def system(expr: Primitive | str | None = None) -> Primitive:
    """A turn of the system."""
    return _turn("system", expr)


def user(expr: Primitive | str | None = None) -> Primitive:
    """A turn of the user."""
    return _turn("user", expr)


def assistant(expr: Primitive | str | None = None) -> Primitive:
    """A turn of the assistant."""
    return _turn("assistant", expr)


def system_begin() -> Primitive:
    """The system's turn begins."""
    return RoleBegin("system")


def system_end() -> Primitive:
    """The system's turn ends."""
    return RoleEnd("system")


def user_begin() -> Primitive:
    """The user's turn begins."""
    return RoleBegin("user")


def user_end() -> Primitive:
    """The user's turn ends."""
    return RoleEnd("user")


def assistant_begin() -> Primitive:
    """The assistant's turn begins."""
    return RoleBegin("assistant")


def assistant_end() -> Primitive:
    """The assistant's turn ends."""
    return RoleEnd("assistant")
