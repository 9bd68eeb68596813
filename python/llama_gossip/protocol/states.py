"""States: the lives of a request and of a job as plain tables. Everything that moves a state is here.

The law: a terminal state absorbs every step; a step that a row does not name cannot happen, and `move` says
so loudly. PROTOCOL sections 4 and 5 tell the same in prose; the picture in the docs is printed from this.

SOLICITING is where a request stands while nobody can take it yet: the topic is asked for it, by Request and
Claim, and whatever the roster learns meanwhile counts too.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar


class RequestState(Enum):
    NEW = "new"
    SOLICITING = "soliciting"
    ASSIGNING = "assigning"  # dialling, or an Assign is out and unanswered
    STREAMING = "streaming"
    DRAINING = "draining"  # the answer is whole and told; the stream's own end is awaited
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RequestStep(Enum):
    SOLICIT = "solicit"
    DIAL = "dial"
    ACCEPT = "accept"
    COMPLETE = "complete"
    CLOSE = "close"
    FAIL = "fail"
    CANCEL = "cancel"


REQUEST_MOVES: Mapping[RequestState, Mapping[RequestStep, RequestState]] = {
    RequestState.NEW: {
        RequestStep.SOLICIT: RequestState.SOLICITING,
        RequestStep.DIAL: RequestState.ASSIGNING,
        RequestStep.FAIL: RequestState.FAILED,
        RequestStep.CANCEL: RequestState.CANCELLED,
    },
    RequestState.SOLICITING: {
        RequestStep.SOLICIT: RequestState.SOLICITING,
        RequestStep.DIAL: RequestState.ASSIGNING,
        RequestStep.FAIL: RequestState.FAILED,
        RequestStep.CANCEL: RequestState.CANCELLED,
    },
    RequestState.ASSIGNING: {
        RequestStep.SOLICIT: RequestState.SOLICITING,
        RequestStep.DIAL: RequestState.ASSIGNING,
        RequestStep.ACCEPT: RequestState.STREAMING,
        RequestStep.FAIL: RequestState.FAILED,
        RequestStep.CANCEL: RequestState.CANCELLED,
    },
    RequestState.STREAMING: {
        RequestStep.SOLICIT: RequestState.SOLICITING,
        RequestStep.DIAL: RequestState.ASSIGNING,
        RequestStep.COMPLETE: RequestState.DRAINING,
        RequestStep.FAIL: RequestState.FAILED,
        RequestStep.CANCEL: RequestState.CANCELLED,
    },
    RequestState.DRAINING: {
        RequestStep.CLOSE: RequestState.DONE,
    },
    RequestState.DONE: {},
    RequestState.FAILED: {},
    RequestState.CANCELLED: {},
}
REQUEST_ENDS = frozenset({RequestState.DONE, RequestState.FAILED, RequestState.CANCELLED})


class JobState(Enum):
    QUEUED = "queued"
    PREFILL = "prefill"
    DECODE = "decode"
    DRAINING = "draining"  # Complete or Error is written, our side finished; the requester's end is awaited
    CLOSED = "closed"


class JobStep(Enum):
    START = "start"
    TOKEN = "token"
    ANSWER = "answer"
    CLOSE = "close"


JOB_MOVES: Mapping[JobState, Mapping[JobStep, JobState]] = {
    JobState.QUEUED: {
        JobStep.START: JobState.PREFILL,
        JobStep.ANSWER: JobState.DRAINING,
        JobStep.CLOSE: JobState.CLOSED,
    },
    JobState.PREFILL: {
        JobStep.TOKEN: JobState.DECODE,
        JobStep.ANSWER: JobState.DRAINING,
        JobStep.CLOSE: JobState.CLOSED,
    },
    JobState.DECODE: {
        JobStep.TOKEN: JobState.DECODE,
        JobStep.ANSWER: JobState.DRAINING,
        JobStep.CLOSE: JobState.CLOSED,
    },
    JobState.DRAINING: {
        JobStep.CLOSE: JobState.CLOSED,
    },
    JobState.CLOSED: {},
}
JOB_ENDS = frozenset({JobState.CLOSED})

State = TypeVar("State", bound=Enum)
Step = TypeVar("Step", bound=Enum)


def move(table: Mapping[State, Mapping[Step, State]], state: State, step: Step) -> State:
    """The next state. A state without a row of its own absorbs; a step its row lacks is a bug of ours."""
    row = table[state]
    if not row:
        return state
    if step not in row:
        raise AssertionError(f"{step} cannot happen in {state}")
    return row[step]
