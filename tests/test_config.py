"""Options: precedence, sources, and sentences for what is wrong."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_gossip.config import (
    DEFAULTS,
    MAX_MODELS,
    OPTIONS,
    Config,
    Directories,
    Source,
    environment_name,
    load_config,
    unread_variables,
)
from llama_gossip.errors import ConfigError, LlamaGossipError, UsageError
from llama_gossip.option_values import convert
from llama_gossip.protocol.limits import MAX_ANNOUNCED_MODELS

# for every option: three different good values as (text on flag or in environment, value in TOML, result)
SAMPLES: Mapping[str, tuple[str, str, object, object]] = {
    "name": ("a", "b", "c", "c"),
    "join": ("lg1a", "lg1b", ["lg1c", "lg1d"], ("lg1c", "lg1d")),
    "network": ("a", "b", "c", "c"),
    "reach": ("host", "host", "host", "host"),
    "key_file": ("/a", "/b", "/c", Path("/c")),
    "allowlist": ("/a", "/b", "/c", Path("/c")),
    "json": ("1", "0", True, True),
    "quiet": ("1", "0", True, True),
    "verbose": ("2", "0", 1, 1),
    "no_color": ("1", "0", True, True),
    "prompt": ("a", "b", None, None),
    "model": ("a", "b", ["c", "d"], ("c", "d")),
    "max_tokens": ("1", "2", 3, 3),
    "temperature": ("0.5", "1", 2, 2.0),
    "top_p": ("0.5", "0.25", 1, 1.0),
    "top_k": ("1", "2", 3, 3),
    "seed": ("1", "2", 3, 3),
    "stop": ("a", "b", ["c", "d e"], ("c", "d e")),
    "ignore_eos": ("1", "0", True, True),
    "system": ("a", "b", "c", "c"),
    "raw": ("1", "0", True, True),
    "priority": ("1", "2", 3, 3),
    "deadline": ("1.5", "2.5", 3, 3.0),
    "worker": ("a", "b", "c", "c"),
    "resume": ("exact", "text", "ids", "ids"),
    "delivery": ("direct", "gossip", "auto", "auto"),
    "visibility": ("public", "private", "public", "public"),
    "stats": ("1", "0", True, True),
    "max_concurrent": ("1", "2", 3, 3),
    "device": ("a", "b", "c", "c"),
    "dtype": ("a", "b", "c", "c"),
    "numerics": ("exact", "fast", "auto", "auto"),
    "engine_process": ("1", "0", True, True),
    "port": ("1", "2", 0, 0),
    "host": ("::1", "0.0.0.0", "localhost", "localhost"),
    "api_key_file": ("/a", "/b", "/c", Path("/c")),
    "http": ("1", "2", 0, 0),
    "metrics_port": ("1", "2", 0, 0),
}


@pytest.fixture
def dirs(tmp_path: Path) -> Directories:
    return Directories.find({"LLAMA_GOSSIP_HOME": str(tmp_path)})


def write_config(dirs: Directories, text: str) -> None:
    dirs.config_file.write_text(text, encoding="utf-8")


def parsed(name: str, text: str) -> object:
    raw: object = [text] if OPTIONS[name].kind == "list" else text
    return convert(raw, OPTIONS[name], name, ConfigError, Path.cwd(), text=True)


def refusal(call: Callable[[], object]) -> str | None:
    """What a typed error says; any other exception goes through."""
    try:
        call()
    except LlamaGossipError as error:
        return error.message
    return None


def test_the_table_of_samples_covers_every_option() -> None:
    assert SAMPLES.keys() == OPTIONS.keys()
    assert {field.name for field in fields(Config)} == {*OPTIONS, "sources", "file"}


@pytest.mark.parametrize(
    ("name", "in_flag", "in_environment", "in_file"), list(itertools.product(SAMPLES, *[(True, False)] * 3))
)
def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(
    dirs: Directories, name: str, in_flag: bool, in_environment: bool, in_file: bool
) -> None:
    flag, variable, toml, from_file = SAMPLES[name]
    in_file = in_file and toml is not None
    flags = {name: [flag] if OPTIONS[name].kind == "list" else flag} if in_flag else {}
    environ = {environment_name(name): variable} if in_environment else {}
    if in_file:
        write_config(dirs, f"{name} = {json.dumps(toml)}")
    config = load_config(flags, dirs, environ)
    expected = (
        (parsed(name, flag), Source.FLAG)
        if in_flag
        else (parsed(name, variable), Source.ENVIRONMENT)
        if in_environment
        else (from_file, Source.FILE)
        if in_file
        else (DEFAULTS[name], Source.DEFAULT)
    )
    assert (getattr(config, name), config.sources[name]) == expected
    others = {other: source for other, source in config.sources.items() if other != name}
    assert set(others.values()) == {Source.DEFAULT}


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("temperature", "nan"),
        ("temperature", "inf"),
        ("temperature", "-0.1"),
        ("temperature", "2.1"),
        ("temperature", "warm"),
        ("top_p", "1.01"),
        ("top_k", "0"),
        ("top_k", "1.5"),
        ("max_tokens", "0"),
        ("max_tokens", "1e3"),
        ("seed", "-1"),
        ("seed", str(2**64)),
        ("priority", "10"),
        ("deadline", "0"),
        ("deadline", "nan"),
        ("max_concurrent", "0"),
        ("reach", "lan"),
        ("raw", "maybe"),
        ("verbose", "3"),
    ],
)
def test_a_bad_value_is_a_usage_error_as_a_flag_and_a_config_error_elsewhere(
    dirs: Directories, name: str, bad: str
) -> None:
    with pytest.raises(UsageError) as as_flag:
        load_config({name: bad}, dirs, {})
    with pytest.raises(ConfigError) as as_variable:
        load_config({}, dirs, {environment_name(name): bad})
    for caught, where in ((as_flag, "--" + name.replace("_", "-")), (as_variable, environment_name(name))):
        assert caught.value.message.startswith(where + ":")
        assert bad in caught.value.message
        assert caught.value.hint


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("max_tokens = true", "must be a whole number, not true or false"),
        ("max_tokens = 1.0", "must be a whole number, not 1.0"),
        ('max_tokens = "5"', "must be a whole number, not text"),
        ("temperature = nan", "out of range"),
        ("temperature = [1]", "must be a number, not a list"),
        ("raw = 1", "must be true or false, not a number"),
        ("system = 3", "must be text, not a number"),
        ("model = 3", "must be a list of texts"),
        ("stop = 3", "must be a list of texts"),
        ("stop = [3]", "must be text, not a number"),
        ("[worker]\nname = 1", "must be text, not a table"),
        (f"stop = {json.dumps(['x'] * 17)}", "at most 16"),
    ],
)
def test_the_file_takes_exact_types_and_says_which_it_wants(dirs: Directories, line: str, told: str) -> None:
    write_config(dirs, line)
    with pytest.raises(ConfigError) as caught:
        load_config({}, dirs, {})
    assert told in caught.value.message
    assert str(dirs.config_file) in caught.value.message


@pytest.mark.parametrize(
    ("key", "nearest"), [("modle", "model"), ("max-tokens", "max_tokens"), ("temprature", "temperature")]
)
def test_an_unknown_key_names_the_nearest(dirs: Directories, key: str, nearest: str) -> None:
    write_config(dirs, f"{key} = 1")
    with pytest.raises(ConfigError) as caught:
        load_config({}, dirs, {})
    assert repr(key) in caught.value.message
    assert repr(nearest) in caught.value.hint


def test_a_key_like_no_other_gets_the_whole_list(dirs: Directories) -> None:
    write_config(dirs, "zzzzzzzz = 1")
    with pytest.raises(ConfigError) as caught:
        load_config({}, dirs, {})
    assert "max_concurrent" in caught.value.hint


def test_a_prompt_does_not_belong_into_the_file(dirs: Directories) -> None:
    write_config(dirs, 'prompt = "x"')
    with pytest.raises(ConfigError):
        load_config({}, dirs, {})


@pytest.mark.parametrize("content", [b"model = ", b"\xff\xfe", b"= 1", b"model = 'a'\nmodel = 'b'"])
def test_a_file_that_is_no_toml_is_one_sentence(dirs: Directories, content: bytes) -> None:
    dirs.config_file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"is not valid TOML"):
        load_config({}, dirs, {})


@settings(deadline=None)  # a busy machine is no failure
@given(content=st.binary(max_size=200))
def test_no_content_of_the_file_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    home = tmp_path_factory.mktemp("home")
    (home / "config.toml").write_bytes(content)
    message = refusal(lambda: load_config({}, Directories.find({"LLAMA_GOSSIP_HOME": str(home)}), {}))
    assert message is None or str(home) in message


def test_a_missing_file_is_fine_unless_it_was_named(dirs: Directories, tmp_path: Path) -> None:
    assert load_config({}, dirs, {}).file is None
    missing = str(tmp_path / "missing.toml")
    for flags, environ in (({"config": missing}, {}), ({}, {"LLAMA_GOSSIP_CONFIG": missing})):
        with pytest.raises(ConfigError, match=r"missing\.toml"):
            load_config(flags, dirs, environ)


def test_a_named_file_replaces_the_usual_one_and_the_flag_the_variable(
    dirs: Directories, tmp_path: Path
) -> None:
    write_config(dirs, 'model = "usual"')
    for name in ("flag", "variable"):
        (tmp_path / name).write_text(f'model = "{name}"', encoding="utf-8")
    environ = {"LLAMA_GOSSIP_CONFIG": str(tmp_path / "variable")}
    assert load_config({}, dirs, {}).asked_model == "usual"
    assert load_config({}, dirs, environ).asked_model == "variable"
    assert load_config({"config": str(tmp_path / "flag")}, dirs, environ).asked_model == "flag"


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_what_is_no_path_is_refused(dirs: Directories, path: str) -> None:
    write_config(dirs, f"key_file = {json.dumps(path)}")
    with pytest.raises(ConfigError, match="is no path"):
        load_config({}, dirs, {})


def test_a_home_that_nobody_has_stays_a_name(dirs: Directories) -> None:
    assert load_config({"key_file": "~nobody-here/k"}, dirs, {}).key_file == Path.cwd() / "~nobody-here" / "k"


def test_paths_in_the_file_start_at_the_file(dirs: Directories, tmp_path: Path) -> None:
    write_config(dirs, 'key_file = "keys/own.key"')
    assert load_config({}, dirs, {}).key_file == tmp_path / "keys" / "own.key"


def test_an_empty_variable_is_an_unset_one(dirs: Directories) -> None:
    config = load_config({}, dirs, {"LLAMA_GOSSIP_MAX_TOKENS": "", "LLAMA_GOSSIP_RAW": ""})
    assert (config.max_tokens, config.sources["max_tokens"]) == (50, Source.DEFAULT)


def test_a_list_in_the_environment_has_one_item_a_line(dirs: Directories) -> None:
    assert load_config({}, dirs, {"LLAMA_GOSSIP_STOP": "a b\nc\n"}).stop == ("a b", "c")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("LLAMA_GOSSIP_MAXTOKENS", "did you mean 'LLAMA_GOSSIP_MAX_TOKENS'?"),
        ("LLAMA_GOSSIP_MODEL_DIR", "did you mean 'LLAMA_GOSSIP_MODEL'?"),
        ("LLAMA_GOSSIP_HOMES", "did you mean 'LLAMA_GOSSIP_HOME'?"),
        ("LLAMA_GOSSIP_XYZZY", "--help"),
    ],
)
def test_a_variable_that_nothing_reads_is_named_with_the_nearest_that_is(name: str, told: str) -> None:
    (sentence,) = unread_variables(
        {name: "5", "LLAMA_GOSSIP_TOP_K": "3", "PATH": "/bin", "LLAMA_GOSSIP_X": ""}
    )
    assert f"nothing reads the variable {name};" in sentence
    assert told in sentence


def test_every_variable_that_is_read_is_known() -> None:
    read = [environment_name(name) for name in OPTIONS]
    read += [f"LLAMA_GOSSIP_{name}" for name in ("HOME", "MODELS", "CONFIG", "DEBUG")]
    assert unread_variables(dict.fromkeys(read, "1")) == []


def test_an_option_that_does_not_exist_is_refused(dirs: Directories) -> None:
    with pytest.raises(UsageError, match=r"max_token'"):
        load_config({"max_token": 3}, dirs, {})


@pytest.mark.parametrize("name", list(OPTIONS))
@settings(deadline=None)  # a busy machine is no failure
@given(text=st.text(max_size=30))
def test_any_text_gives_a_value_or_a_typed_error(name: str, text: str) -> None:
    message = refusal(lambda: convert(text, OPTIONS[name], name, UsageError, Path("/base"), text=True))
    assert message is None or message.startswith(name)


# --- models: a worker serves several, a request names one -----------------------------------------


@pytest.mark.parametrize(
    ("flags", "environ", "line", "where", "error"),
    [
        ({"model": ["a", "b"]}, {}, "", "--model", UsageError),
        ({}, {"LLAMA_GOSSIP_MODEL": "a\nb"}, "", "LLAMA_GOSSIP_MODEL", ConfigError),
        ({}, {}, 'model = ["a", "b"]', "config.toml", ConfigError),
    ],
)
def test_several_models_are_a_workers_and_a_request_refuses_them_where_they_stand(
    dirs: Directories,
    flags: dict[str, object],
    environ: dict[str, str],
    line: str,
    where: str,
    error: type[LlamaGossipError],
) -> None:
    write_config(dirs, line)
    config = load_config(flags, dirs, environ)
    assert config.model == ("a", "b")
    with pytest.raises(error, match="names 2 models, a request asks for one") as caught:
        _ = config.asked_model
    assert where in caught.value.message
    assert caught.value.hint == "give one: --model a"


def test_a_request_asks_for_the_one_model_that_is_named_or_for_any(dirs: Directories) -> None:
    write_config(dirs, 'model = "from the file"')
    assert load_config({}, dirs, {}).asked_model == "from the file"
    assert load_config({"model": ["a"]}, dirs, {}).asked_model == "a"
    write_config(dirs, "")
    assert load_config({}, dirs, {}).asked_model is None


def test_a_worker_takes_as_many_models_as_an_announce_and_no_more(dirs: Directories) -> None:
    assert MAX_MODELS == MAX_ANNOUNCED_MODELS
    with pytest.raises(UsageError, match="at most 32"):
        load_config({"model": ["a"] * 33}, dirs, {})
