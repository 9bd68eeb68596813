"""What is told of a change is enough to follow, and no more than changed."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llama_gossip.gateway.changes import KEYS, Changes

ROWS = st.dictionaries(st.integers(0, 5), st.integers(0, 3), max_size=5)
STATES = st.builds(
    lambda network, *tables: {
        "version": "1",
        "node": {"name": "a", "uptime_s": 1},
        "network": network,
        **{
            name: [{KEYS[name]: key, "value": value} for key, value in table.items()]
            for name, table in zip(KEYS, tables, strict=True)
        },
    },
    st.integers(0, 3),
    *(ROWS for _ in KEYS),
)


def followed(state: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """As the page does it; tables in the order of their keys."""
    after = {**state, **{name: part for name, part in change.items() if name not in KEYS}}
    for table, key in KEYS.items():
        rows = {row[key]: row for row in state[table]}
        told = change.get(table, {"rows": [], "gone": []})
        rows |= {row[key]: row for row in told["rows"]}
        after[table] = [row for name, row in sorted(rows.items()) if name not in told["gone"]]
    return after


def sorted_tables(state: dict[str, Any]) -> dict[str, Any]:
    return {**state, **{table: sorted(state[table], key=lambda row: row[KEYS[table]]) for table in KEYS}}


@given(st.lists(STATES, min_size=2, max_size=4), st.data())
def test_whoever_came_between_two_states_follows_to_the_newer(
    states: list[dict[str, Any]], data: st.DataObject
) -> None:
    """A reader gets the whole at some time, and every change from then on."""
    came = data.draw(st.integers(0, len(states) - 2))
    changes, seen = Changes(states[0], 0.0), states[came]
    for at, state in enumerate(states[1:], start=1):
        change = changes.since(state, 0.0)
        if at > came:
            seen = followed(seen, change)
    assert seen == sorted_tables(states[-1])


@given(STATES)
def test_nothing_is_told_when_nothing_is_different(state: dict[str, Any]) -> None:
    assert Changes(state, 0.0).since(state, 0.0) == {}


def peer(last_seen_s: float) -> dict[str, Any]:
    tables = {name: [] for name in KEYS if name != "peers"}
    row = {"node_id": "a", "last_seen_s": last_seen_s}
    return {"node": {"uptime_s": last_seen_s}, "peers": [row], **tables}


def test_growing_older_is_no_change_but_being_heard_is() -> None:
    changes = Changes(peer(1.0), 100.0)
    assert changes.since(peer(6.0), 105.0) == {}
    assert changes.since(peer(0.5), 110.0) == {"peers": {"rows": peer(0.5)["peers"], "gone": []}}
