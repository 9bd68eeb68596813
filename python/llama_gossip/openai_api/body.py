"""Body: bytes of a request become one JSON object, or a 400.

The law: strict. UTF-8 without a mark in front, RFC 8259 to the letter, one value and nothing behind it, every
number finite, every text valid Unicode, no key twice in one object (which of the two was meant?). Whatever
the bytes, nothing else is raised, and nothing takes longer than reading them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import NoReturn

from llama_gossip.openai_api.errors import ApiError, bad_request

SHOWN_CHARS = 64  # of a client's own words in a message

# A lone surrogate can only come of such an escape: UTF-8 itself has none. Most bodies have none.
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


class _Refused(Exception):
    """What the JSON grammar of Python takes and ours does not."""


def json_object(body: bytes) -> dict[str, object]:
    """Raises ApiError (400)."""
    value = _value(body)
    if not isinstance(value, dict):
        raise bad_request(None, f"the body must be a JSON object, not {kind_of(value)}", "invalid_body")
    return value


def _value(body: bytes) -> object:
    try:
        value: object = _DECODER.decode(body.decode("utf-8"))
        if _SURROGATE_ESCAPE.search(body):
            _encodable(value)
    except UnicodeDecodeError as error:
        raise _invalid(f"byte {error.start} is not UTF-8") from None
    except UnicodeEncodeError:
        raise _invalid("a text has half of a surrogate pair, which is no character") from None
    except json.JSONDecodeError as error:
        raise _invalid(f"{error.msg} (character {error.pos})") from None
    except _Refused as refused:
        raise _invalid(f"{refused}") from None
    except RecursionError:
        raise _invalid("it is nested too deep") from None
    except ValueError:  # the interpreter's own limit of digits
        raise _invalid("a number has too many digits") from None
    return value


def _invalid(why: str) -> ApiError:
    return bad_request(None, f"the body is not valid JSON: {why}", "invalid_json")


def _encodable(value: object) -> None:
    """Raises UnicodeEncodeError for a lone surrogate, in a key or a text."""
    json.dumps(value, ensure_ascii=False).encode("utf-8")


def _refuse(what: str) -> NoReturn:
    raise _Refused(what)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise _Refused(f"{digits[:SHOWN_CHARS]} is too large a number")
    return number


def _without_repeats(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Refused(f"the key {shown(twice)} stands twice in one object")
    return made


_DECODER = json.JSONDecoder(
    parse_float=_finite,
    parse_constant=lambda word: _refuse(f"{word} is no JSON number"),
    object_pairs_hook=_without_repeats,
)


def shown(value: object) -> str:
    """A value of a body in a message: short, and plain text whatever it holds."""
    text = ascii(value) if isinstance(value, str | int | float) else kind_of(value)
    return text if len(text) <= SHOWN_CHARS else text[: SHOWN_CHARS - 1] + "…"


def kind_of(value: object) -> str:
    """The JSON word for it."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case float():
            return "a decimal number"
        case str():
            return "a string"
        case list():
            return "an array"
    return "an object"
