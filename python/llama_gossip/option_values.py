"""How one option's value is read and checked. The law: the same value is right or wrong in the same words,
whether it stood on the command line, in the environment or in the config file."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llama_gossip.errors import LlamaGossipError

Kind = Literal["text", "integer", "number", "switch", "path", "list"]


@dataclass(frozen=True, slots=True)
class OptionSpec:
    """How one option is read and checked, whatever it came from."""

    kind: Kind
    help: str
    metavar: str = ""
    minimum: float | None = None
    maximum: float | None = None
    above_minimum: bool = False  # the minimum itself is refused
    choices: tuple[str, ...] = ()
    max_items: int | None = None
    bare: str | None = None  # the value of a flag that stands without one


def convert(
    raw: object, spec: OptionSpec, where: str, error: type[LlamaGossipError], base: Path, *, text: bool
) -> object:
    """One value, checked. `text`: it was written as text (flag, environment), so numbers are parsed."""
    try:
        match spec.kind:
            case "text":
                return _choice(_text(raw), spec)
            case "integer" | "number":
                return _number(raw, spec, text)
            case "switch":
                return _switch(raw, text)
            case "path":
                return _path(raw, base)
            case "list":
                return _list(raw, spec)
    except ValueError as problem:
        raise error(f"{where}: {problem}", hint=f"correct {where}, or leave it out") from None


def _text(raw: object) -> str:
    if isinstance(raw, Path):
        return str(raw)
    if not isinstance(raw, str):
        raise ValueError(f"must be text, not {_kind_name(raw)}")
    return raw


def _path(raw: object, base: Path) -> Path:
    text = _text(raw)
    if not text or "\0" in text:
        raise ValueError(f"{text!r} is no path")
    return Path(os.path.normpath(base / os.path.expanduser(text)))


def _choice(value: str, spec: OptionSpec) -> str:
    if spec.choices and value not in spec.choices:
        raise ValueError(f"{value!r} does not work in this version; what works: {', '.join(spec.choices)}")
    return value


def _number(raw: object, spec: OptionSpec, text: bool) -> int | float:
    wanted = int if spec.kind == "integer" else float
    value: int | float
    if text and isinstance(raw, str):
        try:
            value = wanted(raw)
        except ValueError:
            raise ValueError(f"{raw!r} is not {_a_number(spec)}") from None
    elif isinstance(raw, bool) or not isinstance(raw, int | float):
        raise ValueError(f"must be {_a_number(spec)}, not {_kind_name(raw)}")
    elif spec.kind == "integer" and not isinstance(raw, int):
        raise ValueError(f"must be {_a_number(spec)}, not {raw}")
    else:
        value = wanted(raw)
    too_low = spec.minimum is not None and (
        value < spec.minimum or (spec.above_minimum and value == spec.minimum)
    )
    too_high = spec.maximum is not None and value > spec.maximum
    if (isinstance(value, float) and not math.isfinite(value)) or too_low or too_high:
        raise ValueError(f"{raw} is out of range; allowed is {_range(spec)}")
    return value


def _a_number(spec: OptionSpec) -> str:
    return "a whole number" if spec.kind == "integer" else "a number"


def _range(spec: OptionSpec) -> str:
    low = f"{'more than' if spec.above_minimum else 'from'} {spec.minimum:.15g}"
    high = (
        int(spec.maximum) if spec.maximum is not None and spec.maximum == int(spec.maximum) else spec.maximum
    )
    return f"{low} to {high}" if high is not None else low


def _switch(raw: object, text: bool) -> bool:
    if isinstance(raw, bool):
        return raw
    if text and isinstance(raw, str):
        if raw.lower() in {"1", "true", "yes", "on"}:
            return True
        if raw.lower() in {"0", "false", "no", "off"}:
            return False
        raise ValueError(f"{raw!r} is neither 1 nor 0")
    raise ValueError(f"must be true or false, not {_kind_name(raw)}")


def _list(raw: object, spec: OptionSpec) -> tuple[str, ...]:
    items = [raw] if isinstance(raw, str) else raw
    if not isinstance(items, list | tuple):
        raise ValueError(f"must be a list of texts, not {_kind_name(raw)}")
    if spec.max_items is not None and len(items) > spec.max_items:
        raise ValueError(f"at most {spec.max_items} are taken, {len(items)} were given")
    return tuple(_text(item) for item in items)


def _kind_name(raw: object) -> str:
    if isinstance(raw, bool):
        return "true or false"
    return {"dict": "a table", "list": "a list", "int": "a number", "float": "a number", "str": "text"}.get(
        type(raw).__name__, type(raw).__name__
    )
