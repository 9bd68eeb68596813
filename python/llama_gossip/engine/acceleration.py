"""Acceleration: what makes a packed forward quicker on a GPU, each taken only once it was seen to be right.

The law: the plain way, itself checked against the model, says what is right; what differs from it, or
raises, is not used, and a note says so. Never wrong, at worst slower.
"""

from __future__ import annotations

import logging
from typing import Final

import torch

from llama_gossip.engine import flash
from llama_gossip.engine.decode_steps import SHORTEST, DecodeSteps
from llama_gossip.engine.forward import Draw, Segment, Span
from llama_gossip.engine.packed import PackedForward
from llama_gossip.engine.selfcheck import apart

LONG_TOKENS: Final = (
    SHORTEST + 9
)  # of the row that is fed past the shortest shape's end, if the context allows
DECODED: Final = 12  # of them one by one
LEAST_CONTEXT: Final = 64  # no position beyond the context is fed: a GPU that is asked for one is lost
SPANS: Final = (Span(20, 17), Span(18, 2), Span(0, 17))  # out of order, with room between them
BLOCKS: Final = 40
_GREEDY: Final = Draw(0.0, 0, 0)

log = logging.getLogger(__name__)


def accelerate(forward: PackedForward, limit: float, context: int) -> tuple[str, ...]:
    """Turns on what holds; returns a note for each thing that does not. What the pool held is lost.

    limit: of |Δ logit| by their spread. context: tokens, as the model was trained.
    """
    if context < LEAST_CONTEXT:
        return ()
    notes = []
    plain = run_program(forward, context)
    if flash.is_here(forward.device) and forward.flashes():
        forward.flashing = True
        if not _right(forward, plain, limit, context, "flash attention"):
            forward.flashing = False
            notes.append("flash attention does not compute this model here: rows attend one by one")
    else:
        log.info("flash attention does not take this model here")

    forward.steps = steps = decode_steps(forward)
    if not (_right(forward, plain, limit, context, "recorded steps") and steps.works):
        forward.steps = None
        notes.append("decode steps of this model cannot be recorded here: each is launched anew")
    return tuple(notes)


def decode_steps(forward: PackedForward) -> DecodeSteps:
    return DecodeSteps(
        forward.call_rows,
        vocabulary=forward.vocabulary,
        device=forward.device,
        flashing=forward.flashing,
        gathers=not forward.flashing,
    )


def _right(forward: PackedForward, plain: list[torch.Tensor], limit: float, context: int, what: str) -> bool:
    try:
        ours = run_program(forward, context)
        off = max(apart(row, right) for row, right in zip(ours, plain, strict=True))
    except Exception:  # a kernel may refuse anything; whatever it was, it is not used
        log.warning("%s cannot be used", what, exc_info=True)
        return False
    if off <= limit:
        return True
    log.warning("%s: logits are off by %.3g of their spread", what, off)
    return False


def run_program(forward: PackedForward, context: int) -> list[torch.Tensor]:
    """Logits of steps of every kind: chunks, mixed ones, then steps of three rows and of one, over the end
    of the shortest shape."""
    forward.reserve(BLOCKS)
    longest = min(LONG_TOKENS, context)
    prompt = longest - DECODED
    texts = [
        [(7 + 31 * row + (11 + 2 * row) * i) % forward.vocabulary for i in range(longest)]
        for row in range(len(SPANS))
    ]
    fed = [0] * len(SPANS)
    found: list[torch.Tensor] = []

    def step(*counts: int) -> None:
        segments = []
        for row, count in enumerate(counts):
            if count:
                begin, end = fed[row], fed[row] + count
                segments.append(Segment(SPANS[row], begin, texts[row][begin:end], _GREEDY))
                fed[row] = end
        found.extend(row.clone() for row in forward.run(segments))

    step(prompt // 3, 0, 5)
    step(prompt - prompt // 3, 7, 1)
    for _ in range(DECODED // 2):
        step(1, 1, 1)
    while fed[0] < longest:
        step(1)
    return found
