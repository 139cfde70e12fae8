"""Python source in the layout of `ruff format`: what fits into a line stands in one, else each argument has its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

WIDTH = 120
INDENT = 4


@dataclass(frozen=True, slots=True)
class Call:
    """name(*arguments, **keywords), as text to be written, not to be called."""

    name: str
    arguments: tuple[Expression, ...] = ()
    keywords: dict[str, Expression] = field(default_factory=dict)

    def __str__(self) -> str:
        named = [f"{name}={value}" for name, value in self.keywords.items()]
        return f"{self.name}({', '.join([*map(str, self.arguments), *named])})"


@dataclass(frozen=True, slots=True)
class Repeat:
    """*(call for _ in range(times)): a new object each time."""

    call: Call
    times: int

    def __str__(self) -> str:
        return f"*({self.call} for _ in range({self.times}))"


Pairs = tuple[tuple[int, int], ...]
Expression = Call | Repeat | Pairs | int | str
"""A string is source text as it stands."""


def calls(expression: Expression) -> Iterator[Call]:
    """The calls in an expression, outer ones first."""
    if isinstance(expression, Repeat):
        yield from calls(expression.call)
    elif isinstance(expression, Call):
        yield expression
        for part in (*expression.arguments, *expression.keywords.values()):
            yield from calls(part)


def lines(expression: Expression, depth: int, before: str = "", after: str = "") -> list[str]:
    """The expression between the texts `before` and `after`, indented by `depth` levels."""
    indent = " " * INDENT * depth
    whole = f"{indent}{before}{expression}{after}"
    if len(whole) <= WIDTH or not isinstance(expression, (Call, Repeat)):
        return [whole]
    if isinstance(expression, Repeat):
        inner = [*lines(expression.call, depth + 1), f"{indent}{' ' * INDENT}for _ in range({expression.times})"]
        return [f"{indent}{before}*(", *inner, f"{indent}){after}"]
    inner = [line for part in expression.arguments for line in lines(part, depth + 1, after=",")]
    for name, value in expression.keywords.items():
        inner += lines(value, depth + 1, before=f"{name}=", after=",")
    return [f"{indent}{before}{expression.name}(", *inner, f"{indent}){after}"]


def definition(name: str, parameters: Sequence[str], depth: int = 1, returns: str = "None") -> list[str]:
    """The first lines of a method."""
    return lines(Call(name, ("self", *parameters)), depth, before="def ", after=f" -> {returns}:")
