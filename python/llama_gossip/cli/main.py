"""The command line's way in. The law: every failure ends as one sentence, a remedy and its exit code; a
traceback is only for those who set LLAMA_GOSSIP_DEBUG=1. Commands are imported when they are called."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from typing import Any, NoReturn

import click

from llama_gossip.cli.groups import SuggestingGroup
from llama_gossip.errors import ConfigError, LlamaGossipError, UsageError

PROGRAM = "llama-gossip"
COMMANDS = {
    "worker": "Serve a model to the network.",
    "client": "Ask the network.",
    "hybrid": "Serve a model, and answer each line of stdin.",
    "gateway": "Serve OpenAI's API and a dashboard on a local port.",
    "peers": "Show the peers of the network.",
    "models": "List, fetch and find models.",
    "ticket": "Print a ticket of the network.",
    "key": "Show node ids of your keys.",
}
BROKEN_PIPE = 141  # 128 + SIGPIPE, as shells see it of every program whose reader has gone
INTERRUPTED, TERMINATED = 130, 143


class Commands(SuggestingGroup):
    """A group whose commands live in modules of their own, imported on call: --help stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"llama_gossip.cli.{cmd_name}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _print_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from llama_gossip.transport import native_versions
    from llama_gossip.version import __version__

    native = native_versions()
    click.echo(
        f"{PROGRAM} {__version__} (iroh {native['iroh']}, iroh-gossip {native['iroh_gossip']}, "
        f"native {native['native']} {native['profile']})"
    )
    ctx.exit(0)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, is_eager=True, callback=_print_version, expose_value=False,
              help="Show the versions and exit.")  # fmt: skip
def cli() -> None:
    """Machines with language models serve each other, with no server in the middle.

    \b
    llama-gossip worker            serve the default model
    llama-gossip client "Hello"    ask it, from another terminal
    """


def main(arguments: list[str]) -> int:
    """Runs one command and returns its exit code. Everything that can go wrong has been said by then."""
    from llama_gossip.cli.session import Session, debugging

    session = Session()
    if _json_wanted(arguments):
        session.output = session.output.for_json()
    try:
        # Not cli.main(): that turns a reader that has gone into an exit code of its own.
        with cli.make_context(PROGRAM, arguments, obj=session) as context:
            code: Any = cli.invoke(context)
    except BaseException as error:  # noqa: BLE001  the last line of defence, it explains every one
        if debugging() and not isinstance(error, click.exceptions.Exit):
            traceback.print_exc()
        return _explain(error, session)
    return code if isinstance(code, int) else 0


def _json_wanted(arguments: list[str]) -> bool:
    """For errors that come before the options are understood."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in own or os.environ.get("LLAMA_GOSSIP_JSON", "").lower() in {"1", "true", "yes", "on"}


def _explain(error: BaseException, session: Any) -> int:
    """Says what happened; the exit code."""
    from llama_gossip.cli.events import Failure

    match error:
        case BrokenPipeError():
            _drop_stdout()
            return BROKEN_PIPE
        case KeyboardInterrupt() | click.Abort():
            return INTERRUPTED
        case click.exceptions.Exit():
            return error.exit_code
        case SystemExit():
            return error.code if isinstance(error.code, int) else 1
        case click.exceptions.NoArgsIsHelpError():
            click.echo(error.format_message(), err=True)
            return error.exit_code
        case LlamaGossipError():
            known = error
        case ImportError() if "_native" in str(error):
            known = ConfigError(f"the native extension cannot be loaded: {error}", hint="build it: make dev")
        case click.ClickException():
            known = UsageError(error.format_message(), hint=_usage_hint(error))
        case _:
            known = LlamaGossipError(
                f"{type(error).__name__}: {error}".strip(": "),
                hint="this is a bug: set LLAMA_GOSSIP_DEBUG=1, run it again, and report what it prints",
            )
    try:
        session.output.failure(Failure(known.code, known.message, known.hint, known.exit_code))
    except BrokenPipeError:
        _drop_stdout()
    return known.exit_code


def _usage_hint(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else PROGRAM
    if "unexpected extra argument" in error.format_message():
        return f"put a text of several words in quotes; see: {where} --help"
    if context is not None and context.parent is None and isinstance(error, click.NoSuchOption):
        return f"options come after the command: {PROGRAM} worker {error.option_name}; see: {where} --help"
    return f"see: {where} --help"


def _drop_stdout() -> None:
    """Nobody reads it any more; the interpreter must not complain about that at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _terminate(_number: int, _frame: object) -> NoReturn:
    raise SystemExit(TERMINATED)


def run() -> NoReturn:
    """The program `llama-gossip`."""
    signal.signal(signal.SIGTERM, _terminate)  # until a command's own loop takes over
    sys.exit(main(sys.argv[1:]))
