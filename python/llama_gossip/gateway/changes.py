"""Changes: what is different between two states of a node. Pure.

The law: applying a change to any state between the two gives the newer one, so that readers who came at
different times can be told the same. What grows by itself (an age, an uptime) is no change.
"""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]

KEYS = {"peers": "node_id", "requests": "request_id", "served": "request_id", "log": "number"}


class Changes:
    def __init__(self, state: Object, now_s: float) -> None:
        self._parts = _parts(state)
        self._rows = _rows(state, now_s)

    def since(self, state: Object, now_s: float) -> Object:
        """{} when nothing is. Else the parts that are different, whole, and of each table
        {"rows": those that are new or different, "gone": keys of those that are no more}."""
        parts, rows = _parts(state), _rows(state, now_s)
        changed: Object = {name: state[name] for name, part in parts.items() if part != self._parts.get(name)}
        for table, key in KEYS.items():
            now, before = rows[table], self._rows[table]
            fresh = [row for row in state[table] if now[row[key]] != before.get(row[key])]
            gone = [name for name in before if name not in now]
            if fresh or gone:
                changed[table] = {"rows": fresh, "gone": gone}
        self._parts, self._rows = parts, rows
        return changed


def _parts(state: Object) -> Object:
    parts = {name: part for name, part in state.items() if name not in KEYS}
    return {**parts, "node": {name: it for name, it in state["node"].items() if name != "uptime_s"}}


def _rows(state: Object, now_s: float) -> dict[str, dict[Any, Object]]:
    return {table: {row[key]: _lasting(row, now_s) for row in state[table]} for table, key in KEYS.items()}


def _lasting(row: Object, now_s: float) -> Object:
    """An age grows alike everywhere; the second in which a peer was heard stays."""
    if "last_seen_s" not in row:
        return row
    return {**row, "last_seen_s": round(now_s - row["last_seen_s"])}
