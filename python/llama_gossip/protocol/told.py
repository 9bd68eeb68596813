"""Told: what the user hears of an attempt, as effects."""

from __future__ import annotations

from llama_gossip.protocol.attempt import Attempt
from llama_gossip.protocol.effects import DeliverTokens, FailedOver, Finished
from llama_gossip.protocol.messages import Complete, Token
from llama_gossip.protocol.request import Seam
from llama_gossip.protocol.resumption import ResumeClass


def tokens(attempt: Attempt, token: Token) -> DeliverTokens:
    return DeliverTokens(
        attempt.assign.request_id,
        token.index,
        token.token_ids,
        token.texts,
        token.logprobs,
        attempt.worker,
        attempt.number,
    )


def mended(attempt: Attempt, seam: Seam, held: ResumeClass, gap_ms: int) -> FailedOver:
    return FailedOver(
        request_id=attempt.assign.request_id,
        attempt=attempt.number,
        from_worker=seam.from_worker,
        to_worker=attempt.worker,
        index=attempt.first_index,
        gap_ms=gap_ms,
        resume=held,
        reason=seam.reason,
    )


def finished(attempt: Attempt, complete: Complete) -> Finished:
    return Finished(
        request_id=attempt.assign.request_id,
        finish_reason=complete.finish_reason,
        total_tokens=complete.total_tokens,
        prompt_tokens=complete.prompt_tokens,
        duration_secs=complete.duration_secs,
        worker=attempt.worker,
        attempt=attempt.number,
        model=attempt.assign.model,
        model_digest=complete.model_digest,
        text_digest=complete.text_digest,
        delivery=attempt.plane,
    )
