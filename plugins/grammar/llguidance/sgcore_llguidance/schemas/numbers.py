"""Numbers that the grammar library would get wrong, in a form that means the same, or refused.

The library (1.9) keeps numbers as 64-bit floats, so that integers beyond 2^53 lose their last digits; it takes 0 for
`exclusiveMinimum: 0` where the maximum is below 1; it ends the process for the constant -2^63; and it computes for
ever over a large `multipleOf`.
"""

from __future__ import annotations

import math
from decimal import Context, Decimal
from typing import Any, TypeGuard

from sgcore.errors import ConstraintError
from sgcore_llguidance.schemas.kinds import NUMBERS, Types

Schema = dict[str, Any]
EXACT = 1 << 53
"""Floats have every integer up to here."""
LARGEST = (1 << 63) - 1
"""As a bound, the library takes it for what it is."""
TINY = 1e-40
"""Stands for 0 where 0 is excluded: what lies between is not written."""
MOST_REMAINDERS = 100_000
"""Measured: 99,991 take 0.8 s, 999,983 7 s, and the time that a constraint may take is 5 s."""
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def check_divisors(root: Any) -> None:
    """Raises ConstraintError where values of `multipleOf`, which the library may join, make too many remainders."""
    divisors: set[int] = set()
    todo = [root]
    while todo:
        part = todo.pop()
        if isinstance(part, dict) and is_number(step := part.get("multipleOf")):
            divisors.add(_digits_of(step))
        todo += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    if math.prod(divisors) > MOST_REMAINDERS:
        raise ConstraintError(
            f"multipleOf: the significant digits of all of them, multiplied, may be at most {MOST_REMAINDERS:,}"
        )


def _digits_of(number: float) -> int:
    """Significant digits of a number, without its point and the zeros at its ends."""
    if not math.isfinite(number) or number <= 0:
        raise ConstraintError(f"multipleOf must be a number above 0, got {number}")
    return int("".join(map(str, Decimal(str(number)).normalize(Context(prec=400)).as_tuple().digits)))


def has_fractions_near_zero(schema: Any) -> bool:
    """Whether a document has a number between -1 and 1 that is not 0: beside it an excluded 0 goes wrong."""
    if isinstance(schema, dict):
        return any(map(has_fractions_near_zero, schema.values()))
    if isinstance(schema, list):
        return any(map(has_fractions_near_zero, schema))
    return isinstance(schema, float) and 0 < abs(schema) < 1


def exact_constant(value: Any) -> Any:
    """The value of a `const`, as the library writes it exactly. Raises ConstraintError if it can't."""
    if isinstance(value, dict):
        return {key: exact_constant(part) for key, part in value.items()}
    if isinstance(value, list):
        return [exact_constant(part) for part in value]
    if not is_number(value):
        return value
    if not -LARGEST <= value <= LARGEST or not _is_float(value):
        raise ConstraintError(f"the number {str(value)[:32]} of const or enum is not exact as a 64-bit float")
    return int(value) if value == int(value) else value


def with_exact_bounds(schema: Schema, types: Types, excludes_zero: bool) -> Schema:
    """The schema with bounds that the library keeps; `excludes_zero`: an excluded 0 has to be written otherwise.

    `types` are those that the schema allows. Raises ConstraintError for a bound that has no such form.
    """
    bounds = {key: schema[key] for key in BOUNDS if is_number(schema.get(key))}
    rest = {key: value for key, value in schema.items() if key not in bounds}
    if not bounds:
        return schema
    if types & NUMBERS == {"integer"}:
        low, high = integer_limits(bounds)
        _check_float(low, "minimum")
        if high != LARGEST:
            _check_float(high, "maximum")
        return rest | {key: bound for key, bound in (("minimum", low), ("maximum", high)) if bound is not None}
    for key, bound in bounds.items():
        _check_float(bound, key)
    if excludes_zero and bounds.get("exclusiveMinimum") == 0 and bounds.get("minimum", 0) <= 0:
        bounds = {key: bound for key, bound in bounds.items() if key != "exclusiveMinimum"} | {"minimum": TINY}
    if excludes_zero and bounds.get("exclusiveMaximum") == 0 and bounds.get("maximum", 0) >= 0:
        bounds = {key: bound for key, bound in bounds.items() if key != "exclusiveMaximum"} | {"maximum": -TINY}
    return rest | bounds


def integer_limits(schema: Schema) -> tuple[int | None, int | None]:
    """The smallest and the largest integer that the bounds allow."""
    at_least = [(schema.get("minimum"), 0), (schema.get("exclusiveMinimum"), 1)]
    at_most = [(schema.get("maximum"), 0), (schema.get("exclusiveMaximum"), 1)]
    low = [math.ceil(bound) if not step else math.floor(bound) + 1 for bound, step in at_least if is_number(bound)]
    high = [math.floor(bound) if not step else math.ceil(bound) - 1 for bound, step in at_most if is_number(bound)]
    return max(low, default=None), min(high, default=None)


def integer_pattern(low: int, high: int) -> str:
    """A regular expression of the integers from `low` to `high`."""
    parts = []
    if low < 0:
        parts += [f"-{part}" for part in _digits(max(1, -high), -low)]
    if high >= 0:
        parts += _digits(max(0, low), high)
    return "|".join(parts)


def _digits(low: int, high: int) -> list[str]:
    """Patterns of the integers from `low`, which is no less than 0, to `high`: runs that end in free digits."""
    parts = []
    while low <= high:
        free = 0
        while low % 10 ** (free + 1) == 0 and low and low + 10 ** (free + 1) - 1 <= high:
            free += 1
        step = 10**free
        most = min(high, low // (10 * step) * 10 * step + 10 * step - 1) if low else min(high, 9)
        count = (most - low + 1) // step
        head, first = divmod(low // step, 10)
        prefix = str(head) if head else ""
        parts.append(f"{prefix}[{first}-{first + count - 1}]" + (f"[0-9]{{{free}}}" if free else ""))
        low += count * step
    return parts


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value of JSON is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_float(bound: float | None, keyword: str) -> None:
    is_huge = isinstance(bound, int) and abs(bound) > EXACT and abs(bound) >= LARGEST
    if bound is not None and (is_huge or not _is_float(bound)):
        raise ConstraintError(f"{keyword} {str(bound)[:32]} is not exact as a 64-bit float: choose another bound")


def _is_float(number: float) -> bool:
    try:
        return math.isfinite(float(number)) and float(number) == number
    except OverflowError:
        return False
