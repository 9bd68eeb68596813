"""Resumption: what an answer has so far, and how exactly another worker continues it (PROTOCOL 4.5).

The law: a continuation counts as `exact` only where nothing can differ; what the user allows at least holds
twice, at the choice by what a worker offers and before its first token by what it says it computes with. The
ids of one vocabulary never reach another.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import blake2b

from llama_gossip.protocol.messages import ModelOffer, NumericsClass, PromptFacts, Resume, Token
from llama_gossip.protocol.record import record

REPEATABLE = (NumericsClass.EXACT, NumericsClass.FP32)  # equal inputs give equal tokens on another worker


class ResumeClass(IntEnum):
    """The higher, the less can differ from what the first worker would have made."""

    TEXT = 0  # another vocabulary, or no ids: the text is continued
    IDS = 1  # the same weights
    EXACT = 2  # the same weights, arithmetic and prompt

    @property
    def word(self) -> str:
        return self.name.lower()


@record(frozen=True, slots=True)
class Maker:
    """What a worker computes with."""

    model_digest: bytes | None
    numerics_id: str | None
    numerics_class: NumericsClass
    prompt_digest: bytes | None

    @classmethod
    def said(cls, facts: PromptFacts) -> Maker:
        return cls(facts.model_digest, facts.numerics_id, facts.numerics_class, facts.prompt_digest)

    @classmethod
    def offered(cls, offer: ModelOffer, prompt_digest: bytes | None = None) -> Maker:
        """An Announce cannot tell the prompt's digest."""
        return cls(offer.digest, offer.numerics_id, offer.numerics_class, prompt_digest)


def class_between(first: Maker, second: Maker) -> ResumeClass:
    """Nil equals nothing."""
    if first.model_digest is None or first.model_digest != second.model_digest:
        return ResumeClass.TEXT
    repeatable = first.numerics_class in REPEATABLE and second.numerics_class in REPEATABLE
    same_numerics = first.numerics_id is not None and first.numerics_id == second.numerics_id
    same_prompt = first.prompt_digest is not None and first.prompt_digest == second.prompt_digest
    return ResumeClass.EXACT if repeatable and same_numerics and same_prompt else ResumeClass.IDS


@record(frozen=True, slots=True)
class Continuation:
    """How an answer that has begun may go on."""

    maker: Maker  # of the last token
    has_ids: bool
    least: ResumeClass

    def promised(self, offer: ModelOffer) -> ResumeClass:
        """The best that can come of this offer."""
        if not self.has_ids:
            return ResumeClass.TEXT
        return class_between(self.maker, Maker.offered(offer, self.maker.prompt_digest))

    def allows(self, offer: ModelOffer) -> bool:
        return self.promised(offer) >= self.least

    def held(self, promised: ResumeClass, now: Maker) -> ResumeClass | None:
        """What it is in truth. None: less than is allowed, or ids were sent to another vocabulary."""
        held = min(promised, class_between(self.maker, now))
        too_little = held < self.least or (promised > ResumeClass.TEXT and held is ResumeClass.TEXT)
        return None if too_little else held


@dataclass(slots=True)
class Prefix:
    """The tokens that were released to the user."""

    texts: list[str] = field(default_factory=list)
    ids: list[int] | None = field(default_factory=list)  # None: not of one vocabulary, or not told
    maker: Maker | None = None
    digest: blake2b = field(default_factory=lambda: blake2b(digest_size=32))

    @property
    def tokens(self) -> int:
        return len(self.texts)

    def add(self, token: Token, maker: Maker, seam: ResumeClass | None) -> None:
        """seam: how the attempt that made it continues the earlier one; None for the first attempt."""
        self.maker = maker
        if seam is ResumeClass.TEXT or not token.token_ids:
            self.ids = None
        if self.ids is not None:
            self.ids.extend(token.token_ids)
        self.texts.extend(token.texts)
        for text in token.texts:
            self.digest.update(text.encode("utf-8"))

    def continuation(self, least: ResumeClass) -> Continuation | None:
        """None: nothing has been released, so there is nothing to continue."""
        if self.maker is None:
            return None
        return Continuation(self.maker, self.ids is not None, least)

    def resume(self, promised: ResumeClass) -> Resume | None:
        """As it is sent to a worker that promises this class."""
        if self.maker is None:
            return None
        ids = self.ids if promised > ResumeClass.TEXT else None
        return Resume(
            from_index=self.tokens,
            token_ids=tuple(ids or ()),
            text="".join(self.texts),
            prompt_digest=self.maker.prompt_digest,
            numerics_id=self.maker.numerics_id,
        )
