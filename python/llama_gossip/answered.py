"""Answered: what becomes of a request of this node's user, as news."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_gossip.news import RequestAnswered, RequestFailedOver, RequestTaken
from llama_gossip.protocol import effects

if TYPE_CHECKING:
    from llama_gossip.generation import Conversation


def answered(conversation: Conversation) -> RequestAnswered:
    """Of a conversation that has ended."""
    answer, error = conversation.answer, conversation.error
    if answer is not None:
        outcome, model, prompt_tokens = answer.finish_reason, answer.model, answer.usage.prompt_tokens
    else:
        assert error is not None  # it has ended
        outcome, model, prompt_tokens = error.code, conversation.model, 0
    return RequestAnswered(
        request_id=conversation.request_id.hex(),
        model=model,
        worker=conversation.worker.hex() if conversation.worker is not None else "",
        outcome=outcome,
        tokens=conversation.tokens,
        prompt_tokens=prompt_tokens,
        first_token_ms=conversation.first_token_ms,
        total_ms=conversation.total_ms,
        attempts=conversation.attempts,
        failovers=len(conversation.failovers),
        delivery=conversation.delivery,
    )


def under_way(effect: effects.Effect) -> RequestTaken | RequestFailedOver | None:
    """What an effect tells of a request that has not ended; None: nothing that is news."""
    match effect:
        case effects.Accepted():
            return RequestTaken(effect.request_id.hex(), effect.worker.hex(), effect.attempt)
        case effects.FailedOver():
            return RequestFailedOver(
                request_id=effect.request_id.hex(),
                attempt=effect.attempt,
                from_worker=effect.from_worker.hex(),
                to_worker=effect.to_worker.hex(),
                index=effect.index,
                reason=effect.reason,
            )
        case _:
            return None
