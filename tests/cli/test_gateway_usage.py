"""What `gateway`, `hybrid --http` and `--metrics-port` take, and what they refuse before anything begins."""

from __future__ import annotations

import importlib
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from llama_gossip.cli.http import http_plan
from llama_gossip.cli.main import cli
from llama_gossip.cli.options import HTTP, SERVING
from llama_gossip.config import Directories, load_config, unread_variables
from llama_gossip.errors import ConfigError
from tests.cli.cli_process import objects

Command = Callable[..., int]
SECRET = "sk-never-shown"


def parsed(name: str, *arguments: str) -> dict[str, object]:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return dict(found.make_context(name, list(arguments)).params)


@pytest.mark.parametrize(
    ("arguments", "http"),
    [
        ([], None),
        (["--http"], "8411"),
        (["--http", "9000"], "9000"),
        (["--http=0"], "0"),
        (["--http", "--json"], "8411"),
        (["--http", "--seed", "1"], "8411"),
    ],
)
def test_http_may_stand_alone_or_with_a_port(arguments: list[str], http: str | None) -> None:
    assert parsed("hybrid", *arguments)["http"] == http


def test_the_help_says_what_http_alone_means(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command("hybrid", "--help")
    assert "[alone 8411; LLAMA_GOSSIP_HTTP]" in " ".join(capsys.readouterr().out.split())


def test_no_command_has_more_than_twelve_options_of_its_own() -> None:
    assert len(SERVING) <= 12
    assert len(HTTP) <= 12


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["gateway", "--port", "70000"], 2, "--port: 70000 is out of range"),
        (["gateway", "--port", "http"], 2, "'http' is not a whole number"),
        (["worker", "--model", "scripted", "--metrics-port", "-1"], 2, "--metrics-port: -1 is out of range"),
        (["gateway", "--http"], 2, "no such option"),
        (["gateway", "--metrics-port", "1"], 2, "no such option"),
        (["gateway", "--host", "example.org"], 3, "no address that can be listened on"),
        (["gateway", "--host", "0.0.0.0"], 3, "no key is asked for"),
        (["gateway", "--host", "::"], 3, "no key is asked for"),
        (["gateway", "--api-key-file", "/nowhere"], 3, "/nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_served_is_a_sentence_before_anything_begins(
    command: Command,
    capsys: pytest.CaptureFixture[str],
    home: Path,
    arguments: list[str],
    code: int,
    told: str,
) -> None:
    assert command(*arguments) == code
    shown = capsys.readouterr()
    assert told.lower() in shown.err.lower()
    assert "Traceback" not in shown.err
    assert not (home / "data").exists()  # no key was claimed


def test_an_open_address_names_both_ways_to_give_a_key(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("gateway", "--host", "0.0.0.0", "--json") == 3
    [error] = objects(capsys.readouterr().out)
    assert "--api-key-file" in error["hint"]
    assert "LLAMA_GOSSIP_API_KEY" in error["hint"]


@pytest.fixture
def held_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        yield holder.getsockname()[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["gateway", "--port"],
        ["hybrid", "--model", "scripted", "--http"],
        ["worker", "--model", "scripted", "--metrics-port"],
    ],
    ids=lambda value: value[0],
)
def test_a_port_in_use_is_exit_3_with_a_remedy(
    command: Command, capsys: pytest.CaptureFixture[str], held_port: int, arguments: list[str]
) -> None:
    assert command(*arguments, str(held_port), "--json") == 3
    events = objects(capsys.readouterr().out)
    assert [event["event"] for event in events] == ["shutdown", "error"]
    assert f"port {held_port} of 127.0.0.1 is in use" in events[1]["message"]
    assert "choose another port" in events[1]["hint"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["gateway"],
        ["hybrid", "--model", "scripted", "--http"],
        ["worker", "--model", "scripted", "--metrics-port", "0"],
    ],
    ids=" ".join,
)
def test_without_the_extra_it_is_named(
    command: Command,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert command(*arguments) == 3
    assert "pip install 'llama-gossip[gateway]'" in capsys.readouterr().err


# --- keys ---------------------------------------------------------------------------------------


@pytest.fixture
def dirs(tmp_path: Path) -> Directories:
    return Directories.find({"LLAMA_GOSSIP_HOME": str(tmp_path)})


def test_with_a_key_another_address_is_allowed(dirs: Directories, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_GOSSIP_API_KEY", SECRET)
    plan = http_plan(load_config({"host": "0.0.0.0"}, dirs, {}), port=0)
    assert plan.keys
    assert SECRET not in repr(plan)


def test_a_hybrid_takes_address_and_keys_from_file_and_environment(dirs: Directories, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"me:{SECRET}\n", encoding="utf-8")
    dirs.config_file.write_text(f'host = "0.0.0.0"\napi_key_file = "{keys}"\nhttp = 0', encoding="utf-8")
    config = load_config({}, dirs, {})
    plan = http_plan(config, port=config.http)
    assert (plan.host, plan.port, bool(plan.keys)) == ("0.0.0.0", 0, True)


def test_a_key_is_no_option_and_known_as_a_variable(dirs: Directories) -> None:
    assert unread_variables({"LLAMA_GOSSIP_API_KEY": SECRET}) == []
    dirs.config_file.write_text(f'api_key = "{SECRET}"', encoding="utf-8")
    with pytest.raises(ConfigError, match="unknown key 'api_key'"):
        load_config({}, dirs, {})
    assert all("api_key" not in parsed(name) for name in ("gateway", "hybrid"))


def test_without_http_neither_extra_nor_address_nor_keys_are_looked_at(
    dirs: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    plan = http_plan(load_config({"host": "example.org", "api_key_file": "/nowhere"}, dirs, {}))
    assert (plan.port, plan.metrics_port, plan.keys) == (None, None, None)


def test_the_figures_alone_need_no_keys(dirs: Directories) -> None:
    plan = http_plan(load_config({"host": "0.0.0.0"}, dirs, {}), metrics_port=0)
    assert (plan.port, plan.metrics_port, plan.keys) == (None, 0, None)


def test_what_is_no_address_is_refused_in_the_plan_too(dirs: Directories) -> None:
    with pytest.raises(ConfigError, match="no address that can be listened on"):
        http_plan(load_config({"host": "example.org"}, dirs, {}), port=0)


def test_the_gateway_command_imports_nothing_of_the_extra_by_itself() -> None:
    before = {"starlette", "uvicorn", "prometheus_client"} & sys.modules.keys()
    importlib.import_module("llama_gossip.cli.gateway")
    assert {"starlette", "uvicorn", "prometheus_client"} & sys.modules.keys() == before
