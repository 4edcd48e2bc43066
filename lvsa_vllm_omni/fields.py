"""The fields of a settings object: types, limits and meanings, checked by pydantic's core.

pydantic itself would do the same, but takes as long to import as `lvsa env` may take altogether.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic_core import CoreSchema, SchemaValidator, core_schema


def _no_truth(value: Any) -> Any:
    """What is to be a number; in Python True is 1."""
    if isinstance(value, bool):
        raise ValueError("a number, not true or false")
    return value


def _number(plain: Callable[..., CoreSchema]) -> Callable[..., CoreSchema]:
    return lambda **limits: core_schema.no_info_before_validator_function(_no_truth, plain(**limits))


_SCHEMAS: Mapping[Any, Callable[..., CoreSchema]] = {
    bool: core_schema.bool_schema,
    int: _number(core_schema.int_schema),
    float: _number(core_schema.float_schema),
    str: core_schema.str_schema,
}


def Field(default: Any, **limits: Any) -> Any:
    """A field with limits, written as in pydantic.

    Args:
        limits: of its type in pydantic's core, such as ``ge``; and ``check``, a function that returns a text as it is
            to be, or raises ValueError with what is accepted.
    """
    return dataclasses.field(default=default, metadata=limits)


def validator(schemas: Mapping[str, CoreSchema]) -> SchemaValidator:
    """Takes a dict of some of these fields, texts or values, and gives their values.

    Its ``validate_python`` raises pydantic's ValidationError.
    """
    fields = {name: core_schema.typed_dict_field(schema, required=False) for name, schema in schemas.items()}
    return SchemaValidator(core_schema.typed_dict_schema(fields, extra_behavior="forbid"))


def schemas(settings: type) -> dict[str, CoreSchema]:
    """How each field of a dataclass is checked."""
    types = get_type_hints(settings)
    return {field.name: schema(types[field.name], **field.metadata) for field in dataclasses.fields(settings)}


def schema(kind: Any, **limits: Any) -> CoreSchema:
    """How a value of a type is checked: bool, int, float, str, one of some words, or one of these or None."""
    if get_origin(kind) is Literal:
        return core_schema.literal_schema(list(get_args(kind)))
    if get_origin(kind) in (Union, UnionType):
        return core_schema.nullable_schema(schema(_without_none(kind), **limits))
    check = limits.pop("check", None)
    plain = _SCHEMAS[kind](**limits)
    return core_schema.no_info_after_validator_function(check, plain) if check else plain


def words(settings: type) -> dict[str, str]:
    """The type of each field for people, such as ``int >= 0``."""
    types = get_type_hints(settings)
    return {field.name: _words(types[field.name], field.metadata) for field in dataclasses.fields(settings)}


def _words(kind: Any, limits: Mapping[str, Any]) -> str:
    kind = _without_none(kind)
    if get_origin(kind) is Literal:
        return ", ".join(get_args(kind))
    name = "text" if kind is str else kind.__name__
    if "le" in limits:
        return f"{name} {limits['ge']} to {limits['le']}"
    return f"{name} >= {limits['ge']}" if "ge" in limits else name


def _without_none(kind: Any) -> Any:
    """The type that a field has where it is set."""
    found = [each for each in get_args(kind) if each is not NoneType] if get_origin(kind) in (Union, UnionType) else []
    return found[0] if found else kind


def meanings(settings: type) -> dict[str, str]:
    """What each field means: the string that stands below it in the source of the class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(settings))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            found[field.target.id] = inspect.cleandoc(ast.literal_eval(below.value))
    return found
