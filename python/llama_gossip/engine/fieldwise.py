"""Fieldwise: values of frozen dataclasses as msgpack arrays, one element a field, made from the type hints.

The law: what `encode` has made of a value of the type, `decode` makes equal to it again; anything else is a
ProtocolError, never a value with a field of another type. A field that a dataclass gets is carried by itself.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

from llama_gossip.protocol.structure import malformed

_PLAIN: Final[dict[Any, tuple[type, ...]]] = {
    int: (int,),
    float: (float, int),  # 1 stands for 1.0 in many a call
    str: (str,),
    bytes: (bytes,),
    bool: (bool,),
}


@dataclass(frozen=True, slots=True)
class Form:
    """How the values of one type are told."""

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    plain: bool = False  # the value itself is told


@cache
def form_of(hint: Any) -> Form:
    """The form of a type: plain ones, enums, tuples, `T | None`, dataclasses, and unions of dataclasses (told
    with the place of theirs in the union in front). Raises TypeError for any other."""
    if hint in _PLAIN:
        return _plain(_PLAIN[hint])
    if get_origin(hint) is tuple:
        return _tuple(get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        return _union(get_args(hint))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _enum(hint)
    if is_dataclass(hint) and isinstance(hint, type):
        return _record(hint)
    raise TypeError(f"{hint} cannot be told")


def _same(value: Any) -> Any:
    return value


def _plain(types: tuple[type, ...]) -> Form:
    def decode(told: Any) -> Any:
        if type(told) not in types:
            raise malformed(f"{type(told).__name__} where {types[0].__name__} belongs")
        return told

    return Form(_same, decode, plain=True)


def _enum(kind: type[enum.Enum]) -> Form:
    def decode(told: Any) -> Any:
        try:
            return kind(told)
        except ValueError:
            raise malformed(f"no {kind.__name__}") from None

    return Form(lambda value: value.value, decode)


def _tuple(hints: tuple[Any, ...]) -> Form:
    if len(hints) == 2 and hints[1] is Ellipsis:
        inner = form_of(hints[0])

        def decode(told: Any) -> Any:
            return tuple([inner.decode(one) for one in _array(told)])

        if inner.plain:
            return Form(_same, decode, plain=True)
        return Form(lambda value: [inner.encode(one) for one in value], decode)
    return _fixed([form_of(hint) for hint in hints], _same, tuple)


def _record(kind: type) -> Form:
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind)]

    def parts(value: Any) -> list[Any]:
        return [getattr(value, name) for name in names]

    def build(values: list[Any]) -> Any:
        return kind(*values)

    form = _fixed([form_of(hints[name]) for name in names], parts, build)
    return Form(form.encode, form.decode)  # a dataclass is never told as itself


def _fixed(forms: list[Form], parts: Callable[[Any], Any], build: Callable[[list[Any]], Any]) -> Form:
    """So many elements, each of its own form."""
    decoders = [form.decode for form in forms]
    special = [(place, form.encode) for place, form in enumerate(forms) if not form.plain]

    def encode(value: Any) -> Any:
        told = parts(value)
        if special:
            told = list(told)
            for place, inner in special:
                told[place] = inner(told[place])
        return told

    def decode(told: Any) -> Any:
        if len(_array(told)) != len(decoders):
            raise malformed(f"{len(told)} elements where {len(decoders)} belong")
        return build([inner(one) for inner, one in zip(decoders, told, strict=True)])

    return Form(encode, decode, plain=not special)


def _union(hints: tuple[Any, ...]) -> Form:
    if type(None) in hints:
        return _optional(tuple(hint for hint in hints if hint is not type(None)))
    forms = [form_of(hint) for hint in hints]
    places = {hint: place for place, hint in enumerate(hints)}

    def encode(value: Any) -> Any:
        place = places[type(value)]
        return (place, forms[place].encode(value))

    def decode(told: Any) -> Any:
        if len(_array(told)) != 2 or type(told[0]) is not int or not 0 <= told[0] < len(forms):
            raise malformed("no value of the union")
        return forms[told[0]].decode(told[1])

    return Form(encode, decode)


def _optional(hints: tuple[Any, ...]) -> Form:
    inner = form_of(hints[0]) if len(hints) == 1 else _union(hints)

    def decode(told: Any) -> Any:
        return None if told is None else inner.decode(told)

    if inner.plain:
        return Form(_same, decode, plain=True)
    return Form(lambda value: None if value is None else inner.encode(value), decode)


def _array(told: Any) -> Any:
    if type(told) is not tuple:
        raise malformed(f"{type(told).__name__} where an array belongs")
    return told
