"""The groups inside messages, in both directions: `pack_*` makes wire values, `read_*` checks and types them.

A group is an array in the order that PROTOCOL section 3 writes it. What a reader refuses cannot be sent
either: `codec.encode_payload` reads every message back before it leaves.
"""

from __future__ import annotations

from functools import partial
from typing import TypeAlias, assert_never

from llama_gossip.protocol import fields as f
from llama_gossip.protocol.limits import (
    HEARD_ID_BYTES,
    MAX_ANNOUNCED_MODELS,
    MAX_CHAT_MESSAGES,
    MAX_LOGPROBS,
    MAX_NAME_BYTES,
    MAX_STOP_STRINGS,
    MAX_TOKEN_IDS,
    SEAL_ID_BYTES,
)
from llama_gossip.protocol.messages import (
    Capacity,
    ChatPrompt,
    GenerationConfig,
    Head,
    IdsPrompt,
    ModelOffer,
    NumericsClass,
    Packet,
    Prompt,
    PromptFacts,
    RawPrompt,
    Resume,
    Seal,
    TokenLogprob,
)
from llama_gossip.protocol.structure import malformed

Fields: TypeAlias = tuple[object, ...]

_RAW, _CHAT, _IDS = 0, 1, 2  # the tag of a prompt


def pack_head(head: Head) -> Fields:
    return head.boot, head.seq, head.ts


def read_head(payload: Fields) -> Head:
    return Head(f.u64(payload[0]), f.u64(payload[1]), f.u64(payload[2]))


# --- what a worker offers ------------------------------------------------------------------------


def pack_capacity(capacity: Capacity) -> Fields:
    return (
        capacity.backend,
        capacity.device,
        tuple(_pack_offer(offer) for offer in capacity.models),
        capacity.max_concurrent,
        capacity.current_load,
        capacity.queue_depth,
        capacity.queue_ms,
        float(capacity.tokens_per_s),
        capacity.memory_free,
    )


def read_capacity(value: object) -> Capacity:
    g = f.group(value, 9)
    return Capacity(
        backend=f.text(g[0]),
        device=f.text(g[1]),
        models=f.array_of(_read_offer, g[2], MAX_ANNOUNCED_MODELS),
        max_concurrent=f.u64(g[3]),
        current_load=f.u64(g[4]),
        queue_depth=f.u64(g[5]),
        queue_ms=f.u64(g[6]),
        tokens_per_s=f.f64(g[7]),
        memory_free=f.u64(g[8]),
    )


def _pack_offer(offer: ModelOffer) -> Fields:
    return (
        offer.name,
        offer.digest,
        offer.context,
        offer.quantisation,
        offer.numerics_id,
        int(offer.numerics_class),
    )


def _read_offer(value: object) -> ModelOffer:
    g = f.group(value, 6)
    return ModelOffer(
        name=f.short_text(MAX_NAME_BYTES, g[0]),
        digest=f.optional(f.digest, g[1]),
        context=f.u64(g[2]),
        quantisation=f.text(g[3]),
        numerics_id=f.optional(f.text, g[4]),
        numerics_class=f.enum(NumericsClass, g[5]),
    )


def read_heard(value: object) -> tuple[bytes, int]:
    g = f.group(value, 2)
    return f.binary(HEARD_ID_BYTES, g[0]), f.u64(g[1])


# --- what a requester asks for -------------------------------------------------------------------


def pack_prompt(prompt: Prompt) -> Fields:
    match prompt:
        case RawPrompt(text):
            return _RAW, text
        case ChatPrompt(messages):
            return _CHAT, tuple(messages)
        case IdsPrompt(ids):
            return _IDS, tuple(ids)
        case _:
            assert_never(prompt)


def read_prompt(value: object) -> Prompt:
    g = f.group(value, 2)
    match f.u64(g[0]):
        case 0:
            return RawPrompt(f.text(g[1]))
        case 1:
            return ChatPrompt(f.array_of(_read_chat_message, g[1], MAX_CHAT_MESSAGES))
        case 2:
            return IdsPrompt(f.token_ids(g[1], MAX_TOKEN_IDS))
        case tag:
            raise malformed(f"{tag} is no kind of prompt")


def _read_chat_message(value: object) -> tuple[str, str]:
    g = f.group(value, 2)
    return f.text(g[0]), f.text(g[1])


def pack_config(config: GenerationConfig) -> Fields:
    """`fit` came later: it stands behind the others, and only where it is set."""
    listed: Fields = (
        config.max_tokens,
        float(config.temperature),
        float(config.top_p),
        config.top_k,
        config.seed,
        tuple(config.stop),
        config.ignore_eos,
        config.logprobs,
        float(config.min_p),
        float(config.repetition),
        float(config.presence),
        float(config.frequency),
        tuple((token_id, float(bias)) for token_id, bias in config.logit_bias),
    )
    return (*listed, True) if config.fit else listed


def read_config(value: object) -> GenerationConfig:
    g = f.group(value, 13)
    return GenerationConfig(
        max_tokens=f.u64(g[0]),
        temperature=f.f64(g[1]),
        top_p=f.f64(g[2]),
        top_k=f.optional(f.u64, g[3]),
        seed=f.u64(g[4]),
        stop=f.array_of(f.text, g[5], MAX_STOP_STRINGS),
        ignore_eos=f.flag(g[6]),
        logprobs=f.optional(partial(f.up_to, MAX_LOGPROBS), g[7]),
        min_p=f.f64(g[8]),
        repetition=f.f64(g[9]),
        presence=f.f64(g[10]),
        frequency=f.f64(g[11]),
        logit_bias=f.array_of(_read_bias, g[12]),
        fit=len(g) > 13 and f.flag(g[13]),
    )


def _read_bias(value: object) -> tuple[int, float]:
    g = f.group(value, 2)
    return f.u32(g[0]), f.f64(g[1])


def pack_resume(resume: Resume | None) -> Fields | None:
    if resume is None:
        return None
    return (
        resume.from_index,
        tuple(resume.token_ids),
        resume.text,
        resume.prompt_digest,
        resume.numerics_id,
    )


def read_resume(value: object) -> Resume:
    g = f.group(value, 5)
    resume = Resume(
        from_index=f.u64(g[0]),
        token_ids=f.token_ids(g[1], MAX_TOKEN_IDS),
        text=f.text(g[2]),
        prompt_digest=f.optional(f.digest, g[3]),
        numerics_id=f.optional(f.text, g[4]),
    )
    if resume.token_ids and len(resume.token_ids) != resume.from_index:
        raise malformed("resume ids that are not as many as from_index says")
    return resume


# --- what a worker answers -----------------------------------------------------------------------


def pack_facts(facts: PromptFacts | None) -> Fields:
    """The tail of the first Progress: no group of its own, so nothing at all when there is none."""
    if facts is None:
        return ()
    return (
        facts.prompt_tokens,
        facts.prompt_digest,
        facts.model_digest,
        facts.numerics_id,
        int(facts.numerics_class),
    )


def read_facts(tail: Fields) -> PromptFacts:
    return PromptFacts(
        prompt_tokens=f.u64(tail[0]),
        prompt_digest=f.optional(f.digest, tail[1]),
        model_digest=f.optional(f.digest, tail[2]),
        numerics_id=f.optional(f.text, tail[3]),
        numerics_class=f.enum(NumericsClass, tail[4]),
    )


def pack_logprob(entry: TokenLogprob) -> Fields:
    return float(entry.logprob), tuple((text, float(logprob)) for text, logprob in entry.top)


def read_logprob(value: object) -> TokenLogprob:
    g = f.group(value, 2)
    return TokenLogprob(f.f64(g[0]), f.array_of(_read_alternative, g[1], MAX_LOGPROBS))


def _read_alternative(value: object) -> tuple[str, float]:
    g = f.group(value, 2)
    return f.text(g[0]), f.f64(g[1])


# --- gossip delivery -------------------------------------------------------------------------------


def pack_packet(message: Packet) -> Fields:
    return (
        *pack_head(message.head),
        message.to,
        message.requester,
        message.request_id,
        message.attempt,
        None if message.seal is None else (message.seal.prekey_id, message.seal.epk),
        message.body,
    )


def read_packet(payload: Fields) -> Packet:
    p = f.group(payload, 9)
    return Packet(
        head=read_head(p),
        to=f.node_id(p[3]),
        requester=f.node_id(p[4]),
        request_id=f.request_id(p[5]),
        attempt=f.attempt(p[6]),
        seal=f.optional(read_seal, p[7]),
        body=f.any_binary(p[8]),
    )


def read_seal(value: object) -> Seal:
    fields = f.group(value, 2)
    return Seal(prekey_id=f.binary(SEAL_ID_BYTES, fields[0]), epk=f.key(fields[1]))
