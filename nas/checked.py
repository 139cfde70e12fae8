"""Files and settings are checked at the edge: pydantic's verdict as one sentence that a person can act on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

Model = TypeVar("Model", bound=BaseModel)


def checked(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """`values` as a `model`; raises ValueError with one sentence naming key, value and what was expected."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ValueError(_sentence(error, model, where)) from None


def _sentence(error: ValidationError, model: type[BaseModel], where: str) -> str:
    first = error.errors(include_url=False)[0]
    # A union reports each of its members; people wrote a key, so only the part before the member's name is theirs.
    key = ".".join(
        str(part) for part in first["loc"] if not (isinstance(part, str) and ("[" in part or part in _TYPES))
    )
    if first["type"] == "missing":
        return f"{where} lacks the key {key!r}"
    if first["type"] == "extra_forbidden":
        return f"{where} has the unknown key {key!r}; the known keys are {', '.join(_siblings(model, first['loc']))}"
    reason = first["msg"].removeprefix("Value error, ")
    return f"{where} {key} = {first['input']!r}: {reason[0].lower()}{reason[1:]}"


_TYPES = {"int", "str", "float", "bool"}


def _siblings(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    fields = model.model_fields
    for part in location[:-1]:
        inner = fields[str(part)].annotation if str(part) in fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return ["those in its documentation"]
        fields = inner.model_fields
    return sorted(fields)
