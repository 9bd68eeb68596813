"""Attention of the lean Llama step: which calls a packed step needs, and how each is made row by row alike.

The law of exactness on CPU: every call has a mask; at most MAX_HEADS query heads share a key head in it; a
prompt's tokens are a batch over the same keys; and the key length is a multiple of BLOCK_TOKENS: in fp32 the
first that a row needs, in bf16 any that is within the last of the kernel's own blocks (KERNEL_KEYS) that it
needs. Then a token's result depends on its own keys alone: not on the chunk it came in, on who is beside it,
or on threads.
What lies behind a mask must be finite, so pools begin as zeros and are cleaned of what is not (llama_step).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from .forward import BLOCK_TOKENS, Segment

if TYPE_CHECKING:
    import torch

MAX_HEADS: Final = 3  # of a group in one call; from 4 on the kernel adds in another order
KERNEL_KEYS: Final = 512  # the kernel's block: one that is masked as a whole changes a row's last bits
PIECE_TOKENS: Final = (
    64  # of a prompt in one call, at its multiples: so it never needs more blocks at its end
)
SLACK_TOKENS: Final = 128  # masked keys that a row reads to share a call cost about what a call does


@dataclass(frozen=True, slots=True)
class Call:
    """Packed rows `begin` to `begin + count`; the keys of each start `step` tokens after those before."""

    begin: int
    count: int
    first: int  # token in the pool
    step: int
    length: int  # keys
    mask: torch.Tensor  # [count, 1, 1, length]


@dataclass(frozen=True, slots=True)
class Plan:
    """A packed step: prompts first, then rows of one token."""

    order: tuple[int, ...]  # segments as packed
    ids: list[int]
    positions: torch.Tensor  # int64 [rows], within their spans
    places: torch.Tensor  # int64 [rows], in the pool
    calls: tuple[Call, ...]


def head_parts(group: int) -> tuple[int, ...]:
    """Query heads of a group by call: 3 stays 3, 4 is 2 + 2, 8 is 3 + 3 + 2."""
    calls = -(-group // MAX_HEADS)
    size, more = divmod(group, calls)
    return tuple(size + (number < more) for number in range(calls))


def planned(segments: Sequence[Segment], dtype: torch.dtype) -> Plan:
    import torch

    long = [number for number, segment in enumerate(segments) if len(segment.ids) > 1]
    short = [number for number, segment in enumerate(segments) if len(segment.ids) == 1]
    short.sort(key=lambda number: segments[number].span.first_token)
    order = (*long, *short)
    ids: list[int] = []
    positions: list[int] = []
    places: list[int] = []
    for number in order:
        segment = segments[number]
        ids += segment.ids
        held = range(segment.start, segment.start + len(segment.ids))
        positions += held
        places += (segment.span.first_token + position for position in held)
    table = torch.tensor(positions)
    loose = dtype == torch.bfloat16
    spans = _prompt_calls([segments[n] for n in long], PIECE_TOKENS if loose else BLOCK_TOKENS)
    spans += _token_calls([segments[n] for n in short], SLACK_TOKENS if loose else 0)
    calls = []
    begin = 0
    for count, first, step, length in spans:
        mask = _mask(table[begin : begin + count], length, dtype)
        calls.append(Call(begin, count, first, step, length, mask))
        begin += count
    return Plan(order, ids, table, torch.tensor(places), tuple(calls))


_Keys = tuple[int, int, int, int]  # rows, first token, step, length


def _prompt_calls(segments: Sequence[Segment], piece: int) -> list[_Keys]:
    found = []
    for segment in segments:
        end = segment.start + len(segment.ids)
        start = segment.start
        while start < end:
            stop = min(end, (start // piece + 1) * piece)
            found.append((stop - start, segment.span.first_token, 0, _rounded(stop)))
            start = stop
    return found


def _token_calls(segments: Sequence[Segment], slack: int) -> list[_Keys]:
    """Rows whose spans are evenly spaced, and hold as many keys as the longest of them, share a call."""
    found: list[_Keys] = []
    begin = 0
    while begin < len(segments):
        end = begin + 1
        step, shortest, longest, room = 0, 1 << 62, 0, 1 << 62
        for number in range(begin, len(segments)):
            span, length = segments[number].span, _rounded(segments[number].start + 1)
            gap = span.first_token - segments[number - 1].span.first_token if number > begin else 0
            shortest, longest = min(shortest, length), max(longest, length)
            room = min(room, span.tokens)
            even = number - begin < 2 or gap == step
            alike = longest - shortest <= slack and _blocks(shortest) == _blocks(longest)
            if not (even and alike and longest <= room):
                break
            step, end = gap, number + 1
        rows = segments[begin:end]
        longest = max(_rounded(row.start + 1) for row in rows)
        found.append((len(rows), rows[0].span.first_token, step, longest))
        begin = end
    return found


def _blocks(keys: int) -> int:
    return -(-keys // KERNEL_KEYS)


def _rounded(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS


def _mask(positions: torch.Tensor, length: int, dtype: torch.dtype) -> torch.Tensor:
    import torch

    hidden = torch.arange(length) > positions[:, None]
    mask = torch.zeros(len(positions), length, dtype=dtype).masked_fill_(hidden, float("-inf"))
    return mask[:, None, None, :]


class Attention:
    """Grouped attention over one layer's pool [2 * kv_heads, tokens, head_dim], keys before values."""

    def __init__(self, kv_heads: int, group: int, head_dim: int) -> None:
        import torch

        self._kv_heads, self._group, self._head_dim = kv_heads, group, head_dim
        self._parts = head_parts(group)
        self._attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default

    def __call__(self, q: torch.Tensor, pool: torch.Tensor, calls: Sequence[Call]) -> torch.Tensor:
        """[rows, kv_heads * group * head_dim] of both the query and the result."""
        q = q.unflatten(1, (self._kv_heads, self._group, self._head_dim))
        if len(calls) == 1 and len(self._parts) == 1:
            return self._call(q, pool, calls[0]).flatten(1)
        out = q.new_empty(q.shape)
        for call in calls:
            rows = slice(call.begin, call.begin + call.count)
            head = 0
            for size in self._parts:
                part = slice(head, head + size)
                out[rows, :, part] = self._call(q[rows, :, part], pool, call)
                head += size
        return out.flatten(1)

    def _call(self, q: torch.Tensor, pool: torch.Tensor, call: Call) -> torch.Tensor:
        head, token, _ = pool.stride()
        size = (call.count, self._kv_heads, call.length, self._head_dim)
        stride = (call.step * token, head, token, 1)
        first = pool.storage_offset() + call.first * token
        keys = pool.as_strided(size, stride, first)
        values = pool.as_strided(size, stride, first + self._kv_heads * head)
        result: torch.Tensor = self._attend(q, keys, values, 0.0, False, attn_mask=call.mask)[0]
        return result
