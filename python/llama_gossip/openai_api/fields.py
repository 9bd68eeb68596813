"""Fields: one reader for each type of parameter. It returns the value, typed, or raises a 400 that names it.

The law: types are exact, nothing is coerced (`true` is no number, `1.5` no integer, `1` no boolean); null
is the same as absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from llama_gossip.openai_api.body import kind_of, shown
from llama_gossip.openai_api.errors import ApiError, bad_request

INVALID_TYPE: Final = "invalid_type"
INVALID_VALUE: Final = "invalid_value"
MISSING: Final = "missing_required_parameter"
UNSUPPORTED: Final = "unsupported_parameter"

Fields = Mapping[str, object]


def wrong_type(param: str, wanted: str, value: object) -> ApiError:
    return bad_request(param, f"{param} must be {wanted}, not {kind_of(value)}", INVALID_TYPE)


def wrong_value(param: str, problem: str) -> ApiError:
    return bad_request(param, f"{param} {problem}", INVALID_VALUE)


def refused(param: str, problem: str) -> ApiError:
    """For what is understood and not had here."""
    return bad_request(param, f"{param} {problem}", UNSUPPORTED)


def required(fields: Fields, name: str) -> object:
    """Its value: not absent, not null."""
    value = fields.get(name)
    if value is None:
        raise bad_request(name, f"{name} is required", MISSING)
    return value


def flag(fields: Fields, name: str) -> bool:
    """False when absent."""
    value = fields.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise wrong_type(name, "a boolean", value)
    return value


def whole(fields: Fields, name: str, least: int, most: int | None) -> int | None:
    """most None: no upper limit."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong_type(name, "an integer", value)
    if value < least or (most is not None and value > most):
        bounds = f"at least {least}" if most is None else f"between {least} and {most}"
        raise wrong_value(name, f"must be {bounds}, not {shown(value)}")
    return value


def number(fields: Fields, name: str, least: float, most: float) -> float | None:
    value = fields.get(name)
    return None if value is None else one_number(name, value, least, most)


def one_number(param: str, value: object, least: float, most: float) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise wrong_type(param, "a number", value)
    if not least <= value <= most:
        raise wrong_value(param, f"must be between {least:g} and {most:g}, not {shown(value)}")
    return float(value)


def text(fields: Fields, name: str) -> str | None:
    value = fields.get(name)
    return None if value is None else one_text(name, value)


def one_text(param: str, value: object) -> str:
    if not isinstance(value, str):
        raise wrong_type(param, "a string", value)
    return value


def items(param: str, value: object) -> list[object]:
    if not isinstance(value, list):
        raise wrong_type(param, "an array", value)
    return value


def members(param: str, value: object) -> Fields:
    if not isinstance(value, dict):
        raise wrong_type(param, "an object", value)
    return value
