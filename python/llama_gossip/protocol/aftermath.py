"""Aftermath: what an attempt without success means for its worker and for its request.

The law: a worker pays only for what is its own fault, a refusal is no strike, and a request that nobody gets
on with ends. An answer that has begun is never begun anew: the next attempt continues it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from llama_gossip.protocol.attempt import Attempt, Ended, How
from llama_gossip.protocol.desk import Desk
from llama_gossip.protocol.ledger import Ledger
from llama_gossip.protocol.limits import NOT_READ
from llama_gossip.protocol.messages import Error, Reject, RejectReason
from llama_gossip.protocol.nobody import Why
from llama_gossip.protocol.request import MAX_ATTEMPTS, MAX_STRIKES, Request, Seam
from llama_gossip.protocol.selection import Candidate
from llama_gossip.protocol.streams import Plane

MAX_BOOT_CORRECTIONS = 2  # a request: a worker that restarts more often than that is not there
# What a worker's Error code tells the user when it is the request's own fault.
REQUEST_FAULTS = {"bad_request": "bad_request", "unsupported": "bad_request", "deadline": "timeout"}
ENGINE_FAULTS = ("engine_failed", "engine_stalled")  # a worker that says so of itself is avoided for a while
# What another worker may do all the same: it has more room, or its engine is not told to stop.
ELSEWHERE = ("too_long", "cancelled")
_HINTS = {"bad_request": "change the request", "timeout": "give it more time: --deadline"}


def settle(
    desk: Desk,
    ledger: Ledger,
    request: Request,
    attempt: Attempt,
    ended: Ended,
    *,
    newest: tuple[int, int],
) -> None:
    """What it means for the worker: out, held, on cooldown, barred for this request, or nothing.
    newest: (boot, seq) of its newest Announce, which no longer counts when it is out."""
    worker, now_ms = attempt.worker, desk.now.mono_ms
    match ended.how:
        case How.REFUSED:
            request.barred[worker] = "policy"
            return
        case How.LOST | How.SILENT:
            if attempt.plane is Plane.GOSSIP:
                ledger.far(worker, 0)  # dialling is worth a try again
            ledger.out(worker, newest, now_ms)
            request.tired.add(worker)
        case (
            How.IDLE
        ):  # an engine that is fed and makes nothing is its own fault, whoever else may be cut off
            ledger.fault(worker, now_ms)
            request.tired.add(worker)
        case How.FAULT:
            ledger.fault(worker, now_ms)
            request.barred[worker] = "fault"
        case How.DIGEST:
            ledger.fault(worker, now_ms, least_ms=desk.timers.digest_cooldown_ms)
            request.barred[worker] = "fault"
        case How.SHORT:
            request.tired.add(worker)
        case How.UNEQUAL:
            request.barred[worker] = "digest"
            return
        case How.REJECTED:
            assert isinstance(ended.frame, Reject)
            _settle_reject(desk, ledger, request, attempt, ended.frame, newest)
            return
        case How.ERROR:
            assert isinstance(ended.frame, Error)
            if _settle_error(desk, ledger, request, attempt, ended.frame, newest):
                return
        case _:
            assert_never(ended.how)
    request.failed_before = True
    _strike(ledger, request, attempt, ended)


def _settle_reject(
    desk: Desk, ledger: Ledger, request: Request, attempt: Attempt, reject: Reject, newest: tuple[int, int]
) -> None:
    worker, now_ms = attempt.worker, desk.now.mono_ms
    retry_after_ms = min(reject.retry_after_ms, desk.timers.cooldown_max_ms)
    if retry_after_ms:
        retry_after_ms = max(retry_after_ms, desk.timers.retry_least_ms)
    match reject.reason:
        case RejectReason.FULL | RejectReason.LATE:
            ledger.hold(worker, now_ms + (retry_after_ms or desk.timers.full_retry_ms))
        case RejectReason.DRAINING:
            ledger.out(worker, newest, now_ms)
        case RejectReason.POLICY if retry_after_ms:
            ledger.hold(worker, now_ms + retry_after_ms)
        case RejectReason.STALE_BOOT:
            if not _is_reborn(request, attempt, reject):
                ledger.out(worker, newest, now_ms)
        case RejectReason.MODEL | RejectReason.TOO_LONG | RejectReason.POLICY | RejectReason.DIGEST:
            request.barred[worker] = reject.reason.name.lower()
        case _:
            assert_never(reject.reason)


def reborn(request: Request, attempt: Attempt, ended: Ended) -> Candidate | None:
    """The same worker under the boot that it has just told: asked again at once, without any penalty."""
    reject = ended.frame
    if request.held or not isinstance(reject, Reject) or not _is_reborn(request, attempt, reject):
        return None
    request.boot_corrections += 1
    return replace(attempt.candidate, boot=reject.boot)


def _is_reborn(request: Request, attempt: Attempt, reject: Reject) -> bool:
    return (
        reject.reason is RejectReason.STALE_BOOT
        and reject.boot > attempt.assign.worker_boot
        and request.boot_corrections < MAX_BOOT_CORRECTIONS
    )


def _settle_error(
    desk: Desk, ledger: Ledger, request: Request, attempt: Attempt, error: Error, newest: tuple[int, int]
) -> bool:
    """True: a refusal that came late, no failure."""
    if error.code == "too_long":  # a larger context may do
        request.least_context = max(request.least_context, attempt.candidate.offer.context + 1)
        request.barred[attempt.worker] = "too_long"
        request.too_long_told = error.error
    elif error.code == "draining":
        ledger.out(attempt.worker, newest, desk.now.mono_ms)
    elif error.code != NOT_READ:  # which was this node's own doing: nobody is better than that worker
        if error.code in ENGINE_FAULTS:
            ledger.fault(attempt.worker, desk.now.mono_ms)
        request.tired.add(attempt.worker)
        return False
    return True


def _strike(ledger: Ledger, request: Request, attempt: Attempt, ended: Ended) -> None:
    """An accepted attempt without one new token. A silent stranger proves nothing about the request."""
    if attempt.received:
        request.strikes = 0
    elif attempt.accepted:
        stranger = ledger.peek(attempt.worker).completed == 0
        if not (ended.how in (How.SILENT, How.IDLE) and stranger):
            request.strikes += 1


def judge(request: Request, attempt: Attempt, ended: Ended) -> Why | None:
    """What it means for the request: None when another attempt may begin."""
    trail = tuple(request.trail)
    if ended.how is How.DIGEST:
        hint = "its worker is avoided for now; try again"
        return Why("digest", f"the answer cannot be trusted: {ended.reason}", hint, trail)
    if isinstance(ended.frame, Error) and not (ended.frame.retryable or ended.frame.code in ELSEWHERE):
        code = REQUEST_FAULTS.get(ended.frame.code, "peer_failed")
        return Why(code, ended.frame.error, _HINTS.get(code, "try again"), trail)
    if request.strikes >= MAX_STRIKES:
        message = f"{request.strikes} attempts in a row were accepted and brought no token{_so_far(request)}"
        return Why("peer_failed", message, "see the reasons; another model may help", trail)
    if request.accepted >= MAX_ATTEMPTS:
        message = f"{request.accepted} attempts were accepted and failed{_so_far(request)}"
        return Why("peer_failed", message, "see the reasons; another model may help", trail)
    return None


def _so_far(request: Request) -> str:
    return f" (the answer stands at {request.delivered} tokens)" if request.delivered else ""


def torn(request: Request, attempt: Attempt, ended: Ended) -> None:
    """Remembers who made the last token, until somebody continues."""
    if request.delivered and request.seam is None:
        request.failed_before = True  # some worker did: "nobody is there" would be only half the reason
        request.seam = Seam(attempt.worker, ended.reason)
