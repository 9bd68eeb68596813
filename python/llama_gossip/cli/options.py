"""Flags, made from the options table. The law: click splits the line, `config` alone judges the values, so a
value is wrong in the same words wherever it stood."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from llama_gossip.config import DEFAULTS, OPTIONS, environment_name

Command = TypeVar("Command", bound=Callable[..., Any])

COMMON = ("name", "join", "network", "reach", "key_file", "json", "quiet", "verbose", "no_color")
OUTPUT = ("json", "quiet", "verbose", "no_color")
GENERATION = (
    "model", "max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "ignore_eos", "system", "raw",
    "priority", "deadline", "worker", "resume", "delivery",
    "visibility", "stats",
)  # fmt: skip
SERVING = ("model", "max_concurrent", "device", "dtype", "numerics", "engine_process", "metrics_port")
HTTP = ("port", "host", "api_key_file")

SPELLINGS = {
    "join": ("--join", "--bootstrap"),
    "quiet": ("-q", "--quiet"),
    "verbose": ("-v", "--verbose"),
}


def options(names: Sequence[str], **helps: str) -> Callable[[Command], Command]:
    """Adds these options and --config; `helps` replaces texts where a command means something special."""

    def decorate(command: Command) -> Command:
        config = click.option("--config", metavar="FILE", help="Read this config.toml.")
        for option in reversed([*(_click_option(name, helps.get(name, "")) for name in names), config]):
            command = option(command)
        return command

    return decorate


def _click_option(name: str, text: str) -> Callable[[Any], Any]:
    spec = OPTIONS[name]
    spellings = SPELLINGS.get(name, ("--" + name.replace("_", "-"),))
    shown = f"{text or spec.help}  [{_notes(name)}]"
    if name == "verbose":
        return click.option(*spellings, name, count=True, default=None, help=shown)
    if spec.kind == "switch":
        return click.option(*spellings, name, is_flag=True, default=None, help=shown)
    metavar = spec.metavar or ("|".join(spec.choices) if spec.choices else "N")
    if spec.bare is not None:
        return click.option(
            *spellings, name, type=str, is_flag=False, flag_value=spec.bare,
            default=None, metavar=metavar, help=shown,
        )  # fmt: skip
    many = spec.kind == "list"
    return click.option(*spellings, name, type=str, multiple=many, default=None, metavar=metavar, help=shown)


def _notes(name: str) -> str:
    default = DEFAULTS[name]
    told = "" if default in (None, (), False) or name == "verbose" else f"default {default}; "
    told += f"alone {OPTIONS[name].bare}; " if OPTIONS[name].bare else ""
    return told + environment_name(name)


def given(arguments: dict[str, Any]) -> dict[str, Any]:
    """What really stood on the command line."""
    values = {name: value for name, value in arguments.items() if value not in (None, ())}
    if "verbose" in values:
        values["verbose"] = min(values["verbose"], 2)  # -vvv is as much as there is
    if not values.get("verbose"):
        values.pop("verbose", None)
    return values
