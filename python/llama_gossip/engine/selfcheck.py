"""The check at load: a forward's packed and chunked steps against one plain forward, and how exact it is.

The law: nothing is served whose steps differ from what the model computes over the whole text at once, and
`exact` is claimed only of what was seen to be bit for bit the same alone, in company and in other chunks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Protocol

import torch

from llama_gossip.engine.forward import Draw, Forward, Segment, Span

FIRST_TOKENS: Final = 16  # of the text that is cut in three
SECOND_TOKENS: Final = 9  # of its companion
CHECK_BLOCKS: Final = 40  # of the pool while it is checked
LIMITS: Final = {"fp32": 1e-3, "bf16": 0.5, "fp16": 0.1}  # |Δ logit| by their spread; a wrong state is over 1
LEAST_ROWS: Final = (1, 2, 4, 8, 16)  # the paddings that are tried
COMPANIES: Final = (1, 2, 3, 6, 15, 32)  # rows beside the one that must not notice them
_GREEDY: Final = Draw(0.0, 0, 0)


class PaddedForward(Forward, Protocol):
    least_rows: int


@dataclass(frozen=True, slots=True)
class Reference:
    """Two texts and the plain forward's logits over them: [tokens, vocabulary]."""

    first: tuple[int, ...]
    second: tuple[int, ...]
    first_logits: torch.Tensor
    second_logits: torch.Tensor


def reference(module: Any, vocabulary: int, device: str) -> Reference:
    """Runs the module as it is: before its attention is replaced."""
    texts = [
        tuple((start + step * i) % vocabulary for i in range(count))
        for start, step, count in ((7, 31, FIRST_TOKENS), (11, 13, SECOND_TOKENS))
    ]
    with torch.inference_mode():
        logits = [
            module(input_ids=torch.tensor([text], device=device), use_cache=False).logits[0].float()
            for text in texts
        ]
    return Reference(texts[0], texts[1], logits[0], logits[1])


def deviation(forward: Forward, plain: Reference) -> float:
    """The largest |Δ logit| over steps that mix rows and chunks, by the spread of the plain logits.

    Infinite where something is not finite. What the pool held is lost.
    """
    forward.reserve(CHECK_BLOCKS)
    ours, theirs = Span(3, 2), Span(0, 1)  # the second row lies before the first
    cuts = ((0, 7, 0, 5), (7, 12, 5, 8), (12, 15, 8, 9), (15, 16, 9, 9))
    worst = 0.0
    for begin, end, begin2, end2 in cuts:
        segments = [Segment(ours, begin, plain.first[begin:end], _GREEDY)]
        wanted = [plain.first_logits[end - 1]]
        if end2 > begin2:
            segments.append(Segment(theirs, begin2, plain.second[begin2:end2], _GREEDY))
            wanted.append(plain.second_logits[end2 - 1])
        for row, right in zip(forward.run(segments), wanted, strict=True):
            worst = max(worst, apart(row, right))
    return worst


def apart(row: torch.Tensor, right: torch.Tensor) -> float:
    """The largest |Δ logit| by the spread of the right ones; infinite where something is not finite."""
    spread = float(right.std()) or 1.0
    off = float((row - right).abs().max()) / spread
    return off if math.isfinite(off) else math.inf


def rows_needed(forward: PaddedForward) -> int | None:
    """The least padding with which logits are bit for bit the same in every company; None: none is enough."""
    for least in LEAST_ROWS:
        forward.least_rows = least
        if _same_in_company(forward):
            return least
    forward.least_rows = 1
    return None


def _same_in_company(forward: Forward) -> bool:
    forward.reserve(CHECK_BLOCKS)
    ids = [(3 + 17 * i) % forward.vocabulary for i in range(20)]
    ours, again = Span(5, 2), Span(1, 2)
    lone = _last(forward, ours, ids, (0, 19, 20))
    for count in COMPANIES:
        company = [
            Segment(Span(8 + number, 1), 0, ((5 + number) % forward.vocabulary,), _GREEDY)
            for number in range(min(count, CHECK_BLOCKS - 8))
        ]
        step = [*company[: count // 2], Segment(ours, 19, ids[19:], _GREEDY), *company[count // 2 :]]
        if not torch.equal(forward.run(step)[count // 2], lone):
            return False
    for cuts in ((0, 1, 2, 15, 18, 19, 20), (0, 13, 20)):
        if not torch.equal(_last(forward, again, ids, cuts), lone):
            return False
    return True


def _last(forward: Forward, span: Span, ids: Sequence[int], cuts: Sequence[int]) -> torch.Tensor:
    for begin, end in pairwise(cuts):
        logits = forward.run([Segment(span, begin, ids[begin:end], _GREEDY)])[0]
    return logits
