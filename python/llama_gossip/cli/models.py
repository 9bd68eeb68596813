"""`llama-gossip models`: what can be served, where it lies, and getting it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llama_gossip.cli.events import ModelRow
from llama_gossip.cli.groups import SuggestingGroup
from llama_gossip.cli.options import OUTPUT, options
from llama_gossip.cli.output import table
from llama_gossip.cli.session import Session

if TYPE_CHECKING:
    from llama_gossip.engine.models import ModelStatus

HEAD = ("NAME", "STATE", "WHAT", "LICENCE", "WHERE")


@click.group(cls=SuggestingGroup)
def models() -> None:
    """List, fetch and find models."""


@models.command("list")
@options(OUTPUT)
@click.pass_obj
def list_(session: Session, /, **arguments: Any) -> int:
    """Show the models that `worker --model` takes by name."""
    session.begin(arguments)
    from llama_gossip.engine.models import list_models

    found = list_models(session.dirs.models)
    for status in found:
        session.output.event(row_of(status))
    for line in table(HEAD, [_cells(status) for status in found]):
        session.output.row(line)
    return 0


@models.command()
@click.argument("name", required=False, metavar="[NAME]")
@options(OUTPUT)
@click.pass_obj
def fetch(session: Session, /, name: str | None, **arguments: Any) -> int:
    """Get a model ready: fetched, checked, converted. Without NAME the default model."""
    session.begin(arguments)
    from llama_gossip.cli.progress import progress_bars
    from llama_gossip.engine.catalogue import DEFAULT
    from llama_gossip.engine.models import fetch as fetch_model

    output = session.output
    with progress_bars(shown=output.mode != "quiet", color=output.color) as progress:
        folder = fetch_model(name or DEFAULT, session.dirs.models, progress=progress)
    _tell_path(session, name or DEFAULT, folder.path)
    return 0


@models.command()
@click.argument("name", required=False, metavar="[NAME]")
@options(OUTPUT)
@click.pass_obj
def path(session: Session, /, name: str | None, **arguments: Any) -> int:
    """Print the folder of a model that is here. Without NAME the one that holds all of them."""
    session.begin(arguments)
    from llama_gossip.engine.models import path as path_of

    if name is None:
        session.output.event(ModelRow("", "", "folder", "", str(session.dirs.models), False))
        session.output.row(str(session.dirs.models))
    else:
        _tell_path(session, name, path_of(name, session.dirs.models))
    return 0


def _tell_path(session: Session, name: str, where: Path) -> None:
    from llama_gossip.engine.catalogue import DEFAULT

    session.output.event(ModelRow(name, "", "ready", "", str(where), name == DEFAULT))
    session.output.row(str(where))


def row_of(status: ModelStatus) -> ModelRow:
    return ModelRow(
        name=status.name,
        title=status.title,
        state=str(status.state),
        licence=status.licence,
        path=str(status.path or ""),
        default=status.default,
    )


def _cells(status: ModelStatus) -> tuple[str, ...]:
    name = f"{status.name} *" if status.default else status.name
    return name, str(status.state), status.title, status.licence, str(status.path or "")
