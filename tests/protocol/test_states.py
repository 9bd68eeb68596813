"""The transition tables are complete: every state is reached, every life can end, ends absorb."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

import pytest

from llama_gossip.protocol.states import (
    JOB_ENDS,
    JOB_MOVES,
    REQUEST_ENDS,
    REQUEST_MOVES,
    JobState,
    JobStep,
    RequestState,
    RequestStep,
    move,
)

TABLES = [
    (REQUEST_MOVES, RequestState, RequestStep, REQUEST_ENDS, RequestState.NEW),
    (JOB_MOVES, JobState, JobStep, JOB_ENDS, JobState.QUEUED),
]


def reached(table: Mapping[Any, Mapping[Any, Any]], start: Enum) -> set[Enum]:
    seen, todo = {start}, [start]
    while todo:
        for state in table[todo.pop()].values():
            if state not in seen:
                seen.add(state)
                todo.append(state)
    return seen


@pytest.mark.parametrize(("table", "states", "steps", "ends", "start"), TABLES)
def test_every_state_has_a_row_is_reached_and_can_end(
    table: Any, states: Any, steps: Any, ends: Any, start: Any
) -> None:
    assert set(table) == set(states)
    assert reached(table, start) == set(states)
    for state in states:
        assert reached(table, state) & ends, f"{state} never ends"
    assert {step for row in table.values() for step in row} == set(steps)


@pytest.mark.parametrize(("table", "states", "steps", "ends", "start"), TABLES)
def test_ends_absorb_every_step_and_unknown_steps_are_loud(
    table: Any, states: Any, steps: Any, ends: Any, start: Any
) -> None:
    for state in states:
        for step in steps:
            if state in ends:
                assert move(table, state, step) is state
            elif step in table[state]:
                assert move(table, state, step) in states
            else:
                with pytest.raises(AssertionError):
                    move(table, state, step)


def test_a_request_can_fail_or_be_cancelled_until_its_answer_is_whole() -> None:
    for state, row in REQUEST_MOVES.items():
        if state not in REQUEST_ENDS and state is not RequestState.DRAINING:
            assert row[RequestStep.FAIL] is RequestState.FAILED
            assert row[RequestStep.CANCEL] is RequestState.CANCELLED


def test_a_job_can_be_closed_from_every_state() -> None:
    for state, row in JOB_MOVES.items():
        if state not in JOB_ENDS:
            assert row[JobStep.CLOSE] is JobState.CLOSED


def test_success_is_told_only_out_of_streaming() -> None:
    sources = [state for state, row in REQUEST_MOVES.items() if RequestStep.COMPLETE in row]
    assert sources == [RequestState.STREAMING]
