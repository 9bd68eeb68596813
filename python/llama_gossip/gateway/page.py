"""Page: dashboard.html, .css and the scripts as one document, and the policy that lets no other run.

The law: style and script stand in the document byte for byte as their hashes in the policy say, and nothing
is inlined between them but escaped text. Without JavaScript the page still shows who is in the network.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from html import escape
from importlib import resources
from typing import Any

from llama_gossip.gateway.journal import SHORT_ID

Object = dict[str, Any]

# Field of the table's head, and its words; dashboard.html has the same head, dashboard.js the same cells.
COLUMNS = (
    ("name", "Name"),
    ("node_id", "Id"),
    ("role", "Role"),
    ("models", "Models"),
    ("device", "Device"),
    ("state", "State"),
    ("running", "Running"),
    ("queue_depth", "Queue"),
    ("tokens_per_s", "Tok/s"),
    ("rtt_ms", "RTT"),
    ("path", "Path"),
    ("last_seen_s", "Last seen"),
    ("version", "Version"),
)
NOTHING = "–"
TILES: dict[str, Callable[[Object], str]] = {
    "workers": lambda network: f"{network['ready_workers']}",
    "peers": lambda network: f"{network['peers']}",
    "models": lambda network: f"{len(network['models'])}",
    "running": lambda network: f"{network['running']} / {network['max_concurrent']}",
    "queue": lambda network: f"{network['queue_depth']}",
    "requests": lambda network: f"{network['requests']}",
    "failovers": lambda network: f"{network['failovers']}",
}
SCRIPTS = ("dashboard_base.js", "dashboard_chat.js", "dashboard.js")


def policy(style: str, script: str) -> str:
    """The content security policy of a page with this one style and this one script."""
    rules = {
        "default-src": "'none'",
        "script-src": _hash(script),
        "style-src": _hash(style),
        "connect-src": "'self'",
        "img-src": "data:",  # the icon
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


class Page:
    """Read once; `text` is the document for one state of the node."""

    def __init__(self) -> None:
        style, script = _source("dashboard.css"), "\n".join(map(_source, SCRIPTS))
        before, rest = _source("dashboard.html").split("<!--style-->")
        between, after = rest.split("<!--script-->")
        self._parts = (before + style + between + script + after).split("<!--slot:")
        self.headers = {"content-security-policy": policy(style, script), "x-frame-options": "DENY"}

    def text(self, state: Object | None) -> str:
        """state: as Status tells it; None: a page without data, that asks for a key."""
        slots = _slots(state)
        first, *rest = self._parts
        filled = (part.partition("-->") for part in rest)
        return first + "".join(slots[name] + text for name, _, text in filled)


def _source(name: str) -> str:
    return resources.files("llama_gossip.gateway").joinpath(name).read_text(encoding="utf-8")


def _slots(state: Object | None) -> dict[str, str]:
    if state is None:
        return {"access": "keyed", "rows": "", **dict.fromkeys(TILES, "")}
    rows = "\n".join(_row(peer) for peer in state["peers"])
    tiles = {name: escape(tile(state["network"])) for name, tile in TILES.items()}
    return {"access": "open", "rows": rows, **tiles}


def _row(peer: Object) -> str:
    cells = dict(zip((field for field, _ in COLUMNS), _cells(peer), strict=True))
    inner = "".join(_cell(peer, field, label, cells[field]) for field, label in COLUMNS)
    return f'<tr role="row" data-testid="peer" data-key="{escape(peer["node_id"])}">{inner}</tr>'


def _cell(peer: Object, field: str, label: str, text: str) -> str:
    shown = escape(text)
    if field == "state":
        shown = f'<span class="mark {escape(text)}">{shown}</span>'
    title = f' title="{escape(peer["node_id"])}"' if field == "node_id" else ""
    return f'<td role="cell" data-field="{field}" data-label="{label}"{title}>{shown}</td>'


def _cells(peer: Object) -> Iterator[str]:
    """In the order of COLUMNS."""
    works = peer["max_concurrent"] > 0
    yield peer["name"]
    yield peer["node_id"][:SHORT_ID]
    yield peer["role"] or NOTHING
    yield ", ".join(peer["models"]) or NOTHING
    yield peer["device"] or NOTHING
    yield "silent" if peer["silent"] else peer["state"]
    yield f"{peer['running']} / {peer['max_concurrent']}" if works else NOTHING
    yield f"{peer['queue_depth']}" if works else NOTHING
    yield f"{peer['tokens_per_s']:.1f}" if peer["tokens_per_s"] else NOTHING
    yield f"{peer['rtt_ms']:.1f} ms" if peer["rtt_ms"] is not None else NOTHING
    yield peer["path"] or NOTHING
    yield f"{peer['last_seen_s']:.0f} s ago"
    yield peer["version"] or NOTHING
