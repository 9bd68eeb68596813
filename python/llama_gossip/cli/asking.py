"""Asking, as `client` and `hybrid` do it: a prompt in, tokens out as they come, the account at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_gossip.cli import events
from llama_gossip.cli.output import short
from llama_gossip.plain_text import one_line

if TYPE_CHECKING:
    from llama_gossip.answer import Answer
    from llama_gossip.cli.output import Output
    from llama_gossip.config import Config
    from llama_gossip.generation import Generation
    from llama_gossip.node import InferenceNode


def start(node: InferenceNode, config: Config, prompt: str, model: str | None) -> Generation:
    """Submits. Raises UsageError."""
    return node.generate(
        prompt,
        model=model,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=config.top_k,
        seed=config.seed,
        stop=config.stop,
        ignore_eos=config.ignore_eos,
        system=config.system,
        raw=config.raw,
        priority=config.priority,
        deadline_s=config.deadline,
        worker=config.worker,
        resume=config.resume,
        delivery=config.delivery,
        visibility=config.visibility,
    )


async def ask(node: InferenceNode, config: Config, output: Output, prompt: str, model: str | None) -> None:
    """One prompt, answered or cancelled. Raises what `generate` raises."""
    generation = start(node, config, prompt, model)
    told = 0
    try:
        async for token in generation:
            await output.room()
            told = tell_failovers(output, generation, told, token.index)
            output.event(events.Token(generation.request_id, token.index, token.token_id, token.text))
            output.answer(token.text)
    finally:
        await generation.aclose()
        output.answer_end()
    await output.room()
    if generation.answer is not None:
        tell_failovers(output, generation, told, generation.answer.usage.completion_tokens)
        tell_answer(output, generation.answer, stats=config.stats)


def tell_failovers(output: Output, generation: Generation, told: int, index: int) -> int:
    """The seams in front of this token, in their place between the tokens. How many have been told then."""
    for seam in generation.failovers[told:]:
        if seam.index > index:
            break
        told += 1
        output.event(
            events.Failover(
                request_id=generation.request_id,
                attempt=seam.attempt,
                from_worker=seam.from_worker,
                to_worker=seam.to_worker,
                index=seam.index,
                gap_ms=seam.gap_ms,
                class_=seam.resume,
                reason=seam.reason,
            )
        )
    return told


def tell_answer(output: Output, answer: Answer, *, stats: bool) -> None:
    output.event(
        events.Complete(
            request_id=answer.request_id,
            text=answer.text,
            total_tokens=answer.usage.completion_tokens,
            finish_reason=answer.finish_reason,
            model=answer.model,
            model_digest=answer.model_digest,
            worker=answer.worker,
            attempts=answer.attempts,
            first_token_ms=answer.timings.first_token_ms,
            tokens_per_s=answer.timings.tokens_per_s,
            delivery=answer.delivery,
            resume=answer.resume,
            verified=answer.verified,
        )
    )
    if not answer.verified:
        output.warn("the signatures of this answer do not hold")
    if stats:
        held = "signatures hold" if answer.verified else "signatures do not hold"
        resumed = f", resumed by {answer.resume}" if answer.resume else ""
        output.account(
            f"[{answer.usage.completion_tokens} tokens, first after {answer.timings.first_token_ms:.0f} ms, "
            f"{answer.timings.tokens_per_s:.1f} tok/s, {one_line(answer.model)} on {short(answer.worker)}, "
            f"{answer.delivery}, attempts {answer.attempts}{resumed}, {answer.finish_reason}, "
            f"seed {answer.seed}, {held}]"
        )
