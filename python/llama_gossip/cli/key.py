"""`llama-gossip key`: the keys of this user, by name and node id. Never the secret part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llama_gossip.cli.events import KeyRow
from llama_gossip.cli.options import OUTPUT, options
from llama_gossip.cli.output import table
from llama_gossip.cli.session import Session
from llama_gossip.errors import KeyFileError

if TYPE_CHECKING:
    from llama_gossip.config import Config, Directories


@click.command()
@options(("name", "key_file", *OUTPUT), name="The key of this node name, made when it is missing.")
@click.pass_obj
def key(session: Session, /, **arguments: Any) -> int:
    """Show node ids: of --name or --key-file (made when missing), or of all keys of this user."""
    config = session.begin(arguments)
    rows = _one(session.dirs, config) if config.name or config.key_file else _all(session)
    for row in rows:
        session.output.event(row)
    if rows:
        for line in table(("NAME", "NODE ID", "FILE"), [(r.name, r.node_id, r.path) for r in rows]):
            session.output.row(line)
    else:
        session.output.say("there is no key yet; one is made with: llama-gossip key --name NAME")
    return 0


def _one(dirs: Directories, config: Config) -> list[KeyRow]:
    from llama_gossip.identity import make_or_read_key

    made = make_or_read_key(dirs, name=config.name, key_file=config.key_file)
    return [_row(made.name, made.node_id, made.path)]


def _all(session: Session) -> list[KeyRow]:
    """Every key that can be read; a bad one is warned about, or raised when there is no other."""
    from llama_gossip.identity import read_key

    folder = session.dirs.keys
    rows, errors = [], []
    for path in sorted(folder.glob("*.key")) if folder.is_dir() else []:
        try:
            rows.append(_row(path.stem, read_key(path), path))
        except KeyFileError as error:
            errors.append(error)
    if errors and not rows:
        raise errors[0]
    for failed in errors:
        session.output.warn(str(failed))
    return rows


def _row(name: str, node_id: bytes, path: Path) -> KeyRow:
    return KeyRow(name, node_id.hex(), str(path))
