"""The command line itself: help, typos, bad values, exit codes, one sentence instead of a traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from llama_gossip import errors
from llama_gossip.cli import main as main_module
from llama_gossip.cli.main import COMMANDS, cli
from llama_gossip.cli.options import SPELLINGS
from llama_gossip.cli.session import Session
from llama_gossip.config import environment_name
from tests.cli.cli_process import PROGRAM, environment, objects, run

Command = Callable[..., int]
FLAGS = {
    "common": "name join network reach key_file json quiet verbose no_color config",
    "generation": "model max_tokens temperature top_p top_k seed stop ignore_eos system raw priority deadline"
    " worker resume delivery visibility stats",
    "serving": "model max_concurrent device dtype numerics engine_process metrics_port",
    "http": "port host api_key_file",
}


def all_errors(root: type[errors.LlamaGossipError] = errors.LlamaGossipError) -> Iterator[type]:
    yield root
    for below in root.__subclasses__():
        yield from all_errors(below)


def own_options(name: str) -> set[str]:
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    return {str(parameter.name) for parameter in found.params if isinstance(parameter, click.Option)}


# --- help --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["-h"], *([name, "--help"] for name in COMMANDS), ["models", "list", "--help"]],
    ids=" ".join,
)
def test_help_is_printed_and_ends_with_0(
    command: Command, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert command(*arguments) == 0
    assert capsys.readouterr().out.startswith("Usage: llama-gossip")


def test_every_command_is_in_the_help_and_can_be_imported(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command("--help")
    shown = capsys.readouterr().out
    for name in COMMANDS:
        assert f"  {name} " in shown
        assert isinstance(cli.get_command(click.Context(cli), name), click.Command)


def test_nothing_at_all_shows_the_help_as_a_usage_error(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command() == 2
    assert "Commands:" in capsys.readouterr().err


def test_help_loads_neither_torch_nor_the_extension(home: Path) -> None:
    script = (
        "import sys; from llama_gossip.cli.main import main; main(['--help']);"
        "heavy = {'torch', 'transformers', 'numpy', 'rich', 'llama_gossip._native', 'nacl', 'asyncio'};"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment(home), check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    before = os.times()
    subprocess.run([*PROGRAM, "--help"], capture_output=True, env=environment(home), check=True)
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    print(f"--help took {cpu_s:.2f} s of a core")


def test_each_option_is_shown_with_its_environment_variable(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command("client", "--help")
    shown = " ".join(capsys.readouterr().out.split())
    for name in own_options("client") - {"help", "config"}:
        assert environment_name(name) in shown, name


def test_the_commands_take_the_flags_of_their_job_and_no_others() -> None:
    groups = {group: set(names.split()) for group, names in FLAGS.items()}
    assert own_options("worker") == groups["common"] | groups["serving"]
    assert own_options("client") == groups["common"] | groups["generation"] | {"prompt"}
    assert own_options("hybrid") == groups["common"] | groups["serving"] | groups["generation"] | {"http"}
    assert own_options("gateway") == groups["common"] | groups["http"]
    assert own_options("peers") == own_options("ticket") == groups["common"]


def test_bootstrap_is_another_word_for_join(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--bootstrap" in SPELLINGS["join"]
    assert command("client", "--bootstrap", "@/nowhere", "Hello") == 3
    assert "/nowhere" in capsys.readouterr().err


def test_version_names_ours_and_iroh(home: Path) -> None:
    done = run(home, "--version")
    assert done.returncode == 0
    assert done.stdout.startswith("llama-gossip 0.1.0 (iroh ")


# --- typos and bad values -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["wroker"], "'worker'"),
        (["modles"], "'models'"),
        (["models", "lsit"], "'list'"),
        (["client", "--modle", "x", "Hello"], "--model"),
        (["client", "--max-token", "5", "Hello"], "--max-tokens"),
        (["worker", "--temperature", "1"], "no such option"),
        (["client", "Hello", "world"], "in quotes"),
        (["--json", "worker"], "after the command"),
        (["client", "--model"], "requires an argument"),
        (["client", "--prompt", "a", "b"], "two prompts"),
        (["client", "   "], "the prompt is empty"),
        (["client", "--temperature", "nan", "Hello"], "--temperature: nan is out of range"),
        (["client", "--seed", "-1", "Hello"], "--seed: -1 is out of range"),
        (["client", "--max-tokens", "many", "Hello"], "'many' is not a whole number"),
        (["worker", "--reach", "lan"], "what works: host"),
        (["worker", "--name", "../../etc"], "path separator"),
        (["client", "--stop", "x", *(["--stop", "y"] * 16), "Hello"], "at most 16"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_mistake_is_exit_2_and_one_sentence_that_helps(
    command: Command, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert command(*arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == "" or arguments[0] == "--json"
    assert told.lower() in (shown.err + shown.out).lower()
    assert "Traceback" not in shown.err


def test_on_a_terminal_without_a_prompt_the_client_says_that_the_session_comes_later(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert command("client") == 2
    assert "interactive session comes in a later version" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfeab", b"x" * ((1 << 20) + 1)])
def test_a_pipe_without_a_usable_prompt_is_a_usage_error(home: Path, content: bytes) -> None:
    done = run(home, "client", "-", stdin=content)
    assert done.returncode == 2
    assert "the prompt" in done.stderr


def test_stdin_cannot_be_ticket_and_prompt_at_once(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("client", "--join", "-", "-") == 2
    assert "both a ticket and the prompt" in capsys.readouterr().err
    assert command("hybrid", "--join", "-") == 2
    assert "both a ticket and the prompts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "told"),
    [("modle = 'x'", "did you mean 'model'?"), ("max_tokens = 'x'", "whole number"), ("= 3", "TOML")],
)
def test_a_wrong_config_file_is_exit_3(
    command: Command, capsys: pytest.CaptureFixture[str], home: Path, file: str, told: str
) -> None:
    home.mkdir()
    (home / "config.toml").write_text(file, encoding="utf-8")
    assert command("client", "Hello") == 3
    assert told in capsys.readouterr().err


def test_a_wrong_variable_is_exit_3_and_named(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_GOSSIP_TOP_P", "2")
    assert command("client", "Hello") == 3
    assert "LLAMA_GOSSIP_TOP_P: 2 is out of range" in capsys.readouterr().err


def test_a_variable_that_nothing_reads_is_a_warning_on_stderr(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_GOSSIP_MAXTOKENS", "5")
    assert command("models", "list", "--json") == 0
    told = capsys.readouterr()
    assert told.err.startswith("warning: nothing reads the variable LLAMA_GOSSIP_MAXTOKENS; did you mean ")
    assert told.err.count("\n") == 1
    objects(told.out)


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(all_errors()), ids=lambda kind: str(kind.__name__))
def test_every_typed_error_is_a_sentence_a_remedy_and_its_exit_code(
    kind: type[errors.LlamaGossipError], capsys: pytest.CaptureFixture[str]
) -> None:
    code = main_module._explain(kind("it went wrong", hint="do better"), Session())
    assert code == kind.exit_code
    assert capsys.readouterr().err == "error: it went wrong\n  do better\n"


@pytest.mark.parametrize(
    "error", [ValueError("odd"), RecursionError(), MemoryError(), OSError(5, "I/O"), KeyError(1)]
)
def test_an_unexpected_error_says_that_it_is_a_bug(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_module._explain(error, Session()) == 1
    told = capsys.readouterr().err
    assert type(error).__name__ in told
    assert "this is a bug" in told


def broken(*_arguments: object) -> None:
    raise ValueError("odd\x1b[2J")


@pytest.mark.parametrize(("debug", "shown"), [("", False), ("0", False), ("1", True)])
def test_a_traceback_is_for_those_who_ask_for_it(
    command: Command,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    debug: str,
    shown: bool,
) -> None:
    monkeypatch.setenv("LLAMA_GOSSIP_DEBUG", debug)
    monkeypatch.setattr("llama_gossip.cli.key._all", broken)
    assert command("key") == 1
    told = capsys.readouterr().err
    assert ("Traceback" in told) == shown
    assert "error: ValueError: odd[2J\n" in told


@pytest.mark.parametrize("by", ["flag", "variable", "file"])
def test_errors_are_json_objects_when_json_was_asked_for(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, home: Path, by: str
) -> None:
    arguments = ["client", "   "]
    if by == "flag":
        arguments.append("--json")
    elif by == "variable":
        monkeypatch.setenv("LLAMA_GOSSIP_JSON", "1")
    else:
        home.mkdir()
        (home / "config.toml").write_text("json = true", encoding="utf-8")
    assert command(*arguments) == 2
    shown = capsys.readouterr()
    [found] = objects(shown.out)
    assert list(found) == ["event", "ts_ms", "code", "message", "hint", "exit_code"]
    assert (found["event"], found["code"], found["exit_code"]) == ("error", "usage", 2)
    assert shown.err == ""


def test_a_mistake_before_the_options_are_read_is_json_too(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("client", "--json", "--modle", "x") == 2
    assert objects(capsys.readouterr().out)[0]["event"] == "error"
    assert command("client", "--", "--json", "x") == 2  # there it is a prompt
    assert capsys.readouterr().out == ""


def test_a_reader_that_goes_away_is_no_error_message(home: Path) -> None:
    with subprocess.Popen(
        [*PROGRAM, "models", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(home)
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == main_module.BROKEN_PIPE


@pytest.mark.parametrize(("interrupt", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_a_signal_before_the_work_begins_is_quiet(
    interrupt: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_module._explain(interrupt, Session()) == code
    assert capsys.readouterr().err == ""


def test_without_the_native_extension_the_remedy_is_to_build_it(home: Path, tmp_path: Path) -> None:
    package = Path(main_module.__file__).parent.parent
    shutil.copytree(package, tmp_path / "bare" / package.name, ignore=shutil.ignore_patterns("_native*"))
    done = run(home, "client", "Hello", PYTHONPATH=str(tmp_path / "bare"))
    assert done.returncode == 3
    assert "make dev" in done.stderr


# --- small commands -------------------------------------------------------------------------------


def test_key_shows_and_makes_node_ids_but_never_the_seed(
    command: Command, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    assert command("key", "--json") == 0
    assert capsys.readouterr().out == ""
    assert command("key", "--name", "hans", "--json") == 0
    [made] = objects(capsys.readouterr().out)
    path = home / "data" / "keys" / "hans.key"
    assert (made["event"], made["name"], made["path"]) == ("key", "hans", str(path))
    assert len(bytes.fromhex(made["node_id"])) == 32
    assert command("key") == 0
    shown = capsys.readouterr().out
    assert made["node_id"] in shown
    assert path.read_bytes().hex() not in shown


def test_keys_that_others_can_read_are_exit_3_with_the_remedy(
    command: Command, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    command("key", "--name", "hans")
    path = home / "data" / "keys" / "hans.key"
    path.chmod(0o644)
    assert command("key", "--name", "hans") == 3
    assert f"chmod 600 {path}" in capsys.readouterr().err


def test_models_list_names_the_default_and_path_its_folder(
    command: Command, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    assert command("models", "list", "--json") == 0
    rows = objects(capsys.readouterr().out)
    assert [row["name"] for row in rows if row["default"]] == ["smollm2-135m"]
    assert command("models", "path") == 0
    assert capsys.readouterr().out == f"{home / 'models'}\n"
    assert command("models", "path", "smollm2-135n") == 4
    assert "did you mean smollm2-135m?" in capsys.readouterr().err


def test_json_output_is_utf8_and_text_never_fails_whatever_the_terminal_takes(home: Path) -> None:
    done = run(home, "key", "--name", "høne-東", "--json", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["name"] == "høne-東"
    done = run(home, "key", PYTHONIOENCODING="ascii")
    assert (done.returncode, "h\\xf8ne-\\u6771" in done.stdout) == (0, True)


def test_one_bad_key_does_not_hide_the_others(
    home: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("key", "--name", "good") == 0
    assert command("key", "--name", "open") == 0
    [bad] = (home / "data" / "keys").glob("open.key")
    bad.chmod(0o644)
    capsys.readouterr()
    assert command("key") == 0
    told = capsys.readouterr()
    assert "good" in told.out
    assert "chmod 600" in told.err
