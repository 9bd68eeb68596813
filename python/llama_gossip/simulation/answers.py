"""Answers: what the model of the simulation says. The law: token i is a pure function of (prompt, seed, i),
whoever makes it and wherever it begins, so the text without faults is known before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import count

from llama_gossip.protocol.messages import ChatPrompt, FinishReason, IdsPrompt, Prompt, RawPrompt, Resume

WEIGHTS = blake2b(b"the weights of the simulation", digest_size=32).digest()
_SYLLABLES = ("la", "ri", "mo", "tü", "se", "ña", "ko", "vé", "du", "pi", "我", "zo", "ha", "🦙", "ge", "nu")
WORDS = tuple(f" {first}{second}" for first in _SYLLABLES for second in _SYLLABLES)  # one a byte


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    ids: tuple[int, ...]
    texts: tuple[str, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    prompt_digest: bytes
    text_digest: bytes

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def continues(self, resume: Resume) -> bool:
        """Whether this answer begins with what the resume says."""
        start = resume.from_index
        if resume.token_ids and resume.token_ids != self.ids[:start]:
            return False
        return "".join(self.texts[:start]) == resume.text


def answer_to(prompt: Prompt, seed: int, max_tokens: int) -> WholeAnswer:
    return _answer(prompt_bytes(prompt), seed, max_tokens)


def prompt_bytes(prompt: Prompt) -> bytes:
    match prompt:
        case RawPrompt(text):
            return text.encode()
        case ChatPrompt(messages):
            return "\0".join(f"{role}\0{content}" for role, content in messages).encode()
        case IdsPrompt(ids):
            return b"".join(number.to_bytes(4, "big") for number in ids)


@lru_cache(maxsize=4_096)
def _answer(prompt: bytes, seed: int, max_tokens: int) -> WholeAnswer:
    key = blake2b(prompt + seed.to_bytes(8, "big"), digest_size=32).digest()
    natural = 3 + key[0] % 30 if key[1] % 8 else 3 + key[0]  # a few answers are long
    length = min(natural, max_tokens)
    ids = _ids(key, length)
    texts = tuple(WORDS[number] for number in ids)
    return WholeAnswer(
        ids=ids,
        texts=texts,
        finish_reason=FinishReason.STOP if natural <= max_tokens else FinishReason.LENGTH,
        prompt_tokens=1 + len(prompt) // 4,
        prompt_digest=blake2b(prompt, digest_size=32).digest(),
        text_digest=blake2b("".join(texts).encode(), digest_size=32).digest(),
    )


def _ids(key: bytes, length: int) -> tuple[int, ...]:
    made = bytearray()
    for block in count():
        if len(made) >= length:
            return tuple(made[:length])
        made += blake2b(block.to_bytes(4, "big"), key=key).digest()
    raise AssertionError("count() has no end")
