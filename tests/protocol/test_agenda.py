"""The agenda against a plain dict."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llama_gossip.protocol.agenda import Agenda

STEPS = st.lists(st.tuples(st.sampled_from(["set", "cancel", "pop"]), st.integers(0, 4), st.integers(0, 50)))


@given(STEPS)
def test_the_agenda_agrees_with_a_dict_of_due_times(steps: list[tuple[str, int, int]]) -> None:
    agenda, due = Agenda(), dict[tuple[str, object, str], int]()
    for step, number, at in steps:
        key = ("job", number, "beat")
        match step:
            case "set":
                agenda.set(key, at)
                due[key] = at
            case "cancel":
                agenda.cancel(key)
                due.pop(key, None)
            case _:
                first = min(due.values(), default=at + 1)
                popped = agenda.pop_due(at)
                if popped is None:
                    assert first > at
                else:
                    assert due.pop(popped) == first <= at
        assert agenda.earliest() == min(due.values(), default=None)
        assert len(agenda) == len(due)


def test_timers_of_one_moment_fire_in_the_order_they_were_set() -> None:
    agenda = Agenda()
    for number in (3, 1, 2):
        agenda.set(("job", number, "beat"), 10)
    assert [agenda.pop_due(10) for _ in range(3)] == [("job", n, "beat") for n in (3, 1, 2)]


def test_a_timer_that_is_renewed_for_ever_does_not_grow_the_heap() -> None:
    agenda = Agenda()
    for at in range(10_000):
        agenda.set(("attempt", 1, "stall"), at)
    assert len(agenda._heap) == 1
    assert agenda.earliest() == 9_999
