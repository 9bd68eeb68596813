"""What the user asked for. The law: flag > environment > config.toml > default, every value knows where it
came from, and nothing that was written is silently ignored.

The fields of `Config` are the one table of options: the config file's keys, the names of the environment
(`LLAMA_GOSSIP_<OPTION>`) and the flags of the command line are all made from it.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from llama_gossip.directories import Directories, absolute_path, ensure_private
from llama_gossip.errors import ConfigError, UsageError
from llama_gossip.option_values import Kind, OptionSpec, convert

__all__ = [
    "DEFAULTS",
    "ENVIRONMENT_PREFIX",
    "OPTIONS",
    "Config",
    "Directories",
    "OptionSpec",
    "Source",
    "ensure_private",
    "environment_name",
    "load_config",
    "unread_variables",
]

ENVIRONMENT_PREFIX = "LLAMA_GOSSIP_"
API_KEY = "API_KEY"  # never an option: the command line is everybody's to read
OTHER_VARIABLES = ("HOME", "MODELS", "CONFIG", "DEBUG", API_KEY)  # read elsewhere, no options
MAX_U64 = 2**64 - 1
MAX_STOPS = 16  # as many as a submission takes
MAX_MODELS = 32  # as many as an Announce takes
MAX_PORT = 65535
GATEWAY_PORT = 8411
MAX_CONFIG_BYTES = 1 << 20  # a config file beyond this is some other file

REACHES = ("host",)  # what this version can do; the others come with their issue


class Source(StrEnum):
    FLAG = "flag"
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


def _option(default: object, kind: Kind, help_text: str, **rest: Any) -> Any:
    return field(default=default, metadata={"option": OptionSpec(kind, help_text, **rest)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Every option with its value. `sources[name]` says where it came from."""

    name: str | None = _option(None, "text", "This node's name, and its key's.", metavar="NAME")
    join: tuple[str, ...] = _option(
        (), "list", "Join the network of a ticket, @file that holds one, or - (stdin).", metavar="TICKET"
    )
    network: str | None = _option(None, "text", "Join the open network of this name.", metavar="NAME")
    reach: str = _option("host", "text", "Who can be reached.", choices=REACHES)
    key_file: Path | None = _option(  # noqa: RUF009  only ruff takes it for a shared mutable default
        None, "path", "Use this key file.", metavar="FILE"
    )
    allowlist: Path | None = _option(  # noqa: RUF009
        None, "path", "File of node ids that may take part.", metavar="FILE"
    )

    json: bool = _option(False, "switch", "Print one JSON object a line on stdout.")
    quiet: bool = _option(False, "switch", "Print only results and errors.")
    verbose: int = _option(0, "integer", "Log more (-vv: everything).", minimum=0, maximum=2)
    no_color: bool = _option(False, "switch", "No colours.")

    prompt: str | None = _option(None, "text", "The prompt.", metavar="TEXT")
    model: tuple[str, ...] = _option((), "list", "Name of the model.", metavar="NAME", max_items=MAX_MODELS)
    max_tokens: int = _option(50, "integer", "Longest answer.", minimum=1, maximum=2**31 - 1)
    temperature: float = _option(0.7, "number", "0 takes the likeliest token.", minimum=0, maximum=2)
    top_p: float = _option(0.9, "number", "Nucleus of this probability.", minimum=0, maximum=1)
    top_k: int | None = _option(None, "integer", "Only the k likeliest tokens.", minimum=1, maximum=2**31 - 1)
    seed: int | None = _option(
        None, "integer", "Same seed, same answer; else random.", minimum=0, maximum=MAX_U64
    )
    stop: tuple[str, ...] = _option((), "list", "Stop before this text.", metavar="TEXT", max_items=MAX_STOPS)
    ignore_eos: bool = _option(False, "switch", "Go on past the model's end token.")
    system: str | None = _option(None, "text", "System message.", metavar="TEXT")
    raw: bool = _option(False, "switch", "Send the prompt without the chat template.")
    priority: int = _option(5, "integer", "9 is the most urgent.", minimum=0, maximum=9)
    deadline: float | None = _option(
        None,
        "number",
        "Give up after this time.",
        metavar="SECONDS",
        minimum=0,
        above_minimum=True,
        maximum=1e7,
    )
    worker: str | None = _option(None, "text", "Ask only this worker (node id).", metavar="ID")
    resume: str = _option(
        "ids",
        "text",
        "If the worker fails, go on elsewhere at least so exactly.",
        choices=("exact", "ids", "text"),
    )
    delivery: str = _option(
        "auto",
        "text",
        "How the answer travels; auto: direct where a connection can be made, sealed over gossip elsewhere.",
        choices=("auto", "direct", "gossip"),
    )
    visibility: str = _option(
        "private",
        "text",
        "public: everybody in the network can read prompt and answer; they travel by gossip.",
        choices=("private", "public"),
    )
    stats: bool = _option(False, "switch", "Print tokens, times and the worker at the end.")

    max_concurrent: int = _option(8, "integer", "Requests answered at once.", minimum=1, maximum=1024)
    device: str | None = _option(None, "text", "Where to compute: cpu, cuda, cuda:1 …", metavar="DEVICE")
    dtype: str | None = _option(None, "text", "Number format: auto, q4, q8, bf16, fp32.", metavar="DTYPE")
    numerics: str = _option(
        "auto",
        "text",
        "exact: the same logits to the bit in any batch; fast: without; auto: exact where that can be had.",
        choices=("auto", "exact", "fast"),
    )
    engine_process: bool = _option(
        False, "switch", "The engine in a process of its own: its end is not the node's."
    )

    port: int = _option(
        GATEWAY_PORT, "integer", "Port to listen on; 0: any that is free.",
        metavar="PORT", minimum=0, maximum=MAX_PORT,
    )  # fmt: skip
    host: str = _option("127.0.0.1", "text", "Address to listen on.", metavar="ADDRESS")
    api_key_file: Path | None = _option(  # noqa: RUF009
        None, "path", "Ask for a key: name:key:priority:rate a line.", metavar="FILE"
    )
    http: int | None = _option(
        None, "integer", "Serve HTTP too, as `gateway` does.",
        metavar="[PORT]", minimum=0, maximum=MAX_PORT, bare=str(GATEWAY_PORT),
    )  # fmt: skip
    metrics_port: int | None = _option(
        None, "integer", "Serve /metrics on this port of 127.0.0.1; 0: any that is free.",
        metavar="PORT", minimum=0, maximum=MAX_PORT,
    )  # fmt: skip

    sources: Mapping[str, Source] = field(default_factory=dict, compare=False)
    file: Path | None = field(default=None, compare=False)  # the config file that was read

    @property
    def asked_model(self) -> str | None:
        """The one that a request asks for; None: any. A worker serves several, a request names one.

        Raises UsageError or ConfigError, by where they stand, when there are several.
        """
        if len(self.model) < 2:
            return self.model[0] if self.model else None
        source = self.sources["model"]
        error = UsageError if source is Source.FLAG else ConfigError
        raise error(
            f"{_place('model', source, self.file)} names {len(self.model)} models, a request asks for one",
            hint=f"give one: --model {self.model[0]}",
        )


def _place(name: str, source: Source, file: Path | None) -> str:
    """Where a value stands, for a sentence about it."""
    match source:
        case Source.FLAG:
            return "--" + name.replace("_", "-")
        case Source.ENVIRONMENT:
            return environment_name(name)
        case Source.FILE:
            return f"{name} in {file}"
        case Source.DEFAULT:
            return f"the default of {name}"


def _specs() -> dict[str, tuple[Field[Any], OptionSpec]]:
    return {f.name: (f, f.metadata["option"]) for f in fields(Config) if "option" in f.metadata}


OPTIONS: Mapping[str, OptionSpec] = MappingProxyType({name: spec for name, (_, spec) in _specs().items()})
DEFAULTS: Mapping[str, object] = MappingProxyType({name: f.default for name, (f, _) in _specs().items()})
NOT_IN_FILE = frozenset({"prompt"})  # belongs to one call, never to a machine


def environment_name(option: str) -> str:
    return ENVIRONMENT_PREFIX + option.upper()


def unread_variables(environ: Mapping[str, str] = os.environ) -> list[str]:
    """A sentence for each variable that is meant for this program and that nothing reads."""
    known = [*OTHER_VARIABLES, *(option.upper() for option in OPTIONS)]
    given = [name.removeprefix(ENVIRONMENT_PREFIX) for name in _set_for_us(environ)]
    return [
        f"nothing reads the variable {ENVIRONMENT_PREFIX}{name}; "
        + (
            _closest(name, known, ENVIRONMENT_PREFIX)
            or "llama-gossip client --help names those of its options"
        )
        for name in given
        if name not in known
    ]


def _set_for_us(environ: Mapping[str, str]) -> list[str]:
    """An empty variable is an unset one."""
    return sorted(name for name, value in environ.items() if value and name.startswith(ENVIRONMENT_PREFIX))


def load_config(
    flags: Mapping[str, object], dirs: Directories, environ: Mapping[str, str] = os.environ
) -> Config:
    """Everything the user asked for. `flags` holds what stood on the command line, `config` (a path) too;
    None and absent are the same. Raises UsageError for a bad flag, ConfigError for the rest."""
    given = {name: value for name, value in flags.items() if value is not None}
    path, table = _read_file(given.pop("config", None), dirs, environ)
    if unknown := given.keys() - OPTIONS.keys():
        raise UsageError(f"unknown option {sorted(unknown)[0]!r}", hint=_nearest(sorted(unknown)[0]))
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    for name, spec in OPTIONS.items():
        values[name], sources[name] = _resolve(name, spec, given, table, path, environ)
    return Config(**values, sources=MappingProxyType(sources), file=path)


def _resolve(
    name: str,
    spec: OptionSpec,
    flags: Mapping[str, object],
    table: Mapping[str, object],
    path: Path | None,
    environ: Mapping[str, str],
) -> tuple[object, Source]:
    if name in flags:
        where = _place(name, Source.FLAG, path)
        return convert(flags[name], spec, where, UsageError, Path.cwd(), text=True), Source.FLAG
    variable = _place(name, Source.ENVIRONMENT, path)
    if environ.get(variable):  # an empty variable is an unset one
        raw: object = environ[variable]
        if spec.kind == "list":
            raw = [line for line in environ[variable].splitlines() if line]
        return convert(raw, spec, variable, ConfigError, Path.cwd(), text=True), Source.ENVIRONMENT
    if name in table:
        assert path is not None
        where = _place(name, Source.FILE, path)
        return convert(table[name], spec, where, ConfigError, path.parent, text=False), Source.FILE
    return DEFAULTS[name], Source.DEFAULT


def _read_file(
    flag: object, dirs: Directories, environ: Mapping[str, str]
) -> tuple[Path | None, Mapping[str, object]]:
    import tomllib

    named = str(flag) if flag else environ.get(ENVIRONMENT_PREFIX + "CONFIG", "")
    path = absolute_path(named) if named else dirs.config_file
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError) and not named:
            return None, {}
        raise ConfigError(f"cannot read the config file {path}: {error.strerror}") from error
    try:
        if len(content) > MAX_CONFIG_BYTES:
            raise ValueError(f"it is larger than {MAX_CONFIG_BYTES} bytes")
        table = tomllib.loads(content.decode("utf-8"))
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError are ones
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    for key in table:
        if key not in OPTIONS or key in NOT_IN_FILE:
            raise ConfigError(f"unknown key {key!r} in {path}", hint=_nearest(key))
    return path, table


def _nearest(key: str) -> str:
    names = [name for name in OPTIONS if name not in NOT_IN_FILE]
    return _closest(key.replace("-", "_"), names) or f"known are: {', '.join(sorted(names))}"


def _closest(word: str, names: Iterable[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean {prefix + close[0]!r}?" if close else ""
