"""Assignment: the Assign that one candidate gets for one request, and until when the whole may take.

The law: everything that decides the answer (prompt, options, seed, date) is the same in every attempt; ids of
an earlier attempt travel only to a worker that is bound to the same weights by the Assign itself.
"""

from __future__ import annotations

from llama_gossip.errors import ProtocolError
from llama_gossip.protocol.desk import Desk
from llama_gossip.protocol.frames import encode_assign
from llama_gossip.protocol.limits import LENGTH_PREFIX_BYTES, MAX_GOSSIP_ITEM_BYTES, TOO_BIG_FOR_GOSSIP
from llama_gossip.protocol.messages import Assign
from llama_gossip.protocol.request import Request
from llama_gossip.protocol.resumption import ResumeClass
from llama_gossip.protocol.selection import Candidate
from llama_gossip.protocol.streams import Plane


def assign_of(
    desk: Desk,
    request: Request,
    candidate: Candidate,
    promised: ResumeClass | None,
    conversation: bytes | None,
) -> Assign:
    """promised: how this candidate would continue what has been released; None: nothing has been.
    conversation: its mark for this worker."""
    submit, now_ms = request.submit, desk.now.mono_ms
    worker_clock = candidate.ts + now_ms - candidate.received_mono_ms
    model_digest = submit.model_digest
    if promised is not None and promised > ResumeClass.TEXT:
        model_digest = candidate.offer.digest
    return Assign(
        head=desk.head(),
        request_id=submit.request_id,
        attempt=request.attempts,
        worker=candidate.node_id,
        worker_boot=candidate.boot,
        accept_by=worker_clock + desk.timers.assign_window_ms,
        prompt=submit.prompt,
        config=submit.config,
        resume=None if promised is None else request.prefix.resume(promised),
        priority=submit.priority,
        deadline_ms=max(1, request.deadline_mono_ms - now_ms),
        model=candidate.offer.name,
        model_digest=model_digest,
        date=submit.date,
        conversation=conversation,
    )


def encoded(desk: Desk, assign: Assign, plane: Plane) -> tuple[bytes, bytes]:
    """(what to write first on the stream, ctx of the attempt). Raises ProtocolError, code oversize, malformed
    or TOO_BIG_FOR_GOSSIP."""
    data, context = encode_assign(assign, desk.signer, desk.net_id)
    size = len(data) - LENGTH_PREFIX_BYTES
    if plane is Plane.GOSSIP and size > MAX_GOSSIP_ITEM_BYTES:
        message = f"a request of {size} bytes is too long for gossip (at most {MAX_GOSSIP_ITEM_BYTES})"
        hint = "shorten the prompt, or allow a direct connection: --delivery auto"
        raise ProtocolError(message, hint=hint, code=TOO_BIG_FOR_GOSSIP)
    return data, context


def extended_deadline(desk: Desk, request: Request, candidate: Candidate) -> int:
    """The default deadline leaves room for a slow worker's whole answer."""
    speed, most_ms = candidate.capacity.tokens_per_s, desk.timers.max_job_ms
    extra_ms = round(min(2_000 * request.submit.config.max_tokens / speed, most_ms)) if speed > 0 else 0
    deadline = request.submitted_mono_ms + desk.timers.deadline_ms + extra_ms
    return max(request.deadline_mono_ms, deadline)
