"""Attention over packed rows: keys and values of a pool, read where they lie, one call for each row.

The law: a token sees its own row's tokens up to itself and nothing else, whatever the pool held before. With
`exact`, what a token gets is bit for bit the same however its prompt was cut and wherever its span lies. On a
CPU whose kernels are pinned that takes what was measured to suffice: at most EXACT_HEADS query heads a head
of keys in a call, a mask always, keys up to a block's end, and the tokens of one block as a batch over the
same keys. With one length of keys for a whole chunk instead, 1 token in 7 differs beyond 512 keys in fp32.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention

from llama_gossip.engine import flash
from llama_gossip.engine.forward import BLOCK_TOKENS, Segment, Span
from llama_gossip.engine.transfers import to_device

EXACT_HEADS: Final = 3  # more rows in the kernel's matrix product change the order of its sums


@dataclass(frozen=True, slots=True)
class Read:
    """One call: so many packed tokens, the first at position `start`, over the pool's tokens [begin, end)."""

    count: int
    begin: int
    end: int
    start: int


@dataclass(frozen=True, slots=True)
class Options:
    """What a layer asks of attention beside its tensors."""

    scale: float | None
    window: int | None  # tokens that are seen, itself included
    softcap: float | None


@dataclass(frozen=True, slots=True)
class Packed:
    """A step as attention sees it. Constant over its layers, which share the masks."""

    slots: torch.Tensor  # int64 [tokens]: where in the pool each packed token's keys go, padding's too
    stale: torch.Tensor | None  # int64: of blocks just entered, tokens that will be read before they come
    reads: tuple[Read, ...]
    counts: tuple[int, ...]  # tokens of each read, then of the padding if there is any
    places: flash.Places | None = None  # for the kernel that takes all rows at once, where it is used
    masks: dict[tuple[int | None, int], list[torch.Tensor | None]] = field(default_factory=dict)


def pack(
    segments: Sequence[Segment],
    device: str,
    *,
    exact: bool,
    flashing: bool = False,
    padding: int = 0,
    spare: int = 0,
) -> Packed:
    """`padding` tokens follow the real ones; their keys go to the pool's token `spare`."""
    slots: list[int] = []
    stale: list[int] = []
    reads: list[Read] = []
    for segment in segments:
        base, start, count = segment.span.first_token, segment.start, len(segment.ids)
        end = start + count
        if not 0 <= start < end <= segment.span.tokens:
            raise ValueError(f"tokens {start} to {end} do not fit a span of {segment.span.tokens}")
        slots += range(base + start, base + end)
        whole = _block_end(end - 1)
        if exact and whole - BLOCK_TOKENS >= start:  # this block is entered here: what lay in it is not ours
            stale += range(base + end, base + whole)
        reads += _by_block(start, end, base) if exact else (Read(count, base, base + end, start),)
    counts = [read.count for read in reads]
    if padding:
        slots += [spare] * padding
        counts.append(padding)
    placed, hidden = to_device((slots, stale), device)
    return Packed(
        placed,
        hidden if stale else None,
        tuple(reads),
        tuple(counts),
        _places(reads, device) if flashing else None,
    )


def _places(reads: Sequence[Read], device: str) -> flash.Places:
    queries = list(itertools.accumulate((read.count for read in reads), initial=0))
    lengths = [read.end - read.begin for read in reads]
    starts = [read.begin for read in reads] + [0]
    queried, started, counted = to_device((queries, starts, lengths), device, torch.int32)
    return flash.Places(
        queried, started, counted, most_queries=max(read.count for read in reads), longest=max(lengths)
    )


def _block_end(position: int) -> int:
    return (position // BLOCK_TOKENS + 1) * BLOCK_TOKENS


def _by_block(start: int, end: int, base: int) -> list[Read]:
    reads = []
    while start < end:
        until = min(end, _block_end(start))
        reads.append(Read(until - start, base, base + _block_end(start), start))
        start = until
    return reads


class Slots(Protocol):
    """Where a step's keys go, as Packed has it."""

    @property
    def slots(self) -> torch.Tensor: ...
    @property
    def stale(self) -> torch.Tensor | None: ...


@dataclass(slots=True)
class LayerPool:
    """One layer's keys and values: [1, heads of keys, tokens, size], so that a span is a view."""

    keys: torch.Tensor
    values: torch.Tensor

    @property
    def by_token(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of [tokens, heads of keys, size]."""
        return self.keys[0].transpose(0, 1), self.values[0].transpose(0, 1)

    def write(self, packed: Slots, keys: torch.Tensor, values: torch.Tensor) -> None:
        """keys, values: [1, heads of keys, tokens and padding, size]."""
        if packed.stale is not None:
            self.keys.index_fill_(2, packed.stale, 0.0)
            self.values.index_fill_(2, packed.stale, 0.0)
        self.keys.index_copy_(2, packed.slots, keys)
        self.values.index_copy_(2, packed.slots, values)

    def copy(self, source: Span, target: Span, tokens: int) -> None:
        begin, end = target.first_token, target.first_token + tokens
        for pool in (self.keys, self.values):
            pool[:, :, begin:end] = pool[:, :, source.first_token : source.first_token + tokens].clone()
            pool[:, :, end : target.first_token + _block_end(tokens - 1)] = 0.0


def _span_of(pool: torch.Tensor, begin: int, end: int, batch: int) -> torch.Tensor:
    """The pool's tokens, `batch` times the same: [batch, heads, keys, size]. A third of slicing's time."""
    _, heads, tokens, size = pool.shape
    return torch.as_strided(
        pool, (batch, heads, end - begin, size), (0, tokens * size, size, 1), begin * size
    )


def _spread_span_of(pool: torch.Tensor, begin: int, end: int, group: int) -> torch.Tensor:
    """The same with heads of keys as the batch and their group as the heads: [heads, group, keys, size]."""
    _, heads, tokens, size = pool.shape
    return torch.as_strided(
        pool, (heads, group, end - begin, size), (tokens * size, 0, size, 1), begin * size
    )


class Attention:
    """The two ways of reading, with the masks that they keep."""

    def __init__(self, exact: bool) -> None:
        self.exact = exact
        self._block_masks: dict[int | None, torch.Tensor] = {}

    def attend(self, packed: Packed, query: torch.Tensor, pool: LayerPool, options: Options) -> torch.Tensor:
        """query: [1, heads, tokens, size], padding last; returns [1, tokens, heads, size of values]."""
        _, heads, count, size = query.shape
        if packed.places is not None and flash.fits(pool.keys, pool.values, options.softcap):
            keys, values = pool.by_token
            tokens = query[0].transpose(0, 1)
            return flash.attend(tokens, keys, values, packed.places, options.scale, options.window)[None]
        kv_heads = pool.keys.shape[1]
        rows = query.transpose(1, 2).reshape(count, kv_heads, heads // kv_heads, size)
        read_rows = self._exact_rows if self.exact else self._fast_rows
        masks = self._masks_of(packed, options.window, rows)
        reads, counts = packed.reads, packed.counts
        if len(counts) == 1:
            made = read_rows(reads[0], rows, masks[0], pool, options)
        else:
            parts = [
                read_rows(read, part, mask, pool, options)
                for read, part, mask in zip(reads, rows.split(counts), masks, strict=False)
            ]
            if len(counts) > len(reads):
                parts.append(parts[0].new_zeros(counts[-1], *parts[0].shape[1:]))
            made = torch.cat(parts)
        return made.reshape(1, count, heads, pool.values.shape[3])

    def _exact_rows(
        self, read: Read, rows: torch.Tensor, mask: torch.Tensor | None, pool: LayerPool, options: Options
    ) -> torch.Tensor:
        keys = _span_of(pool.keys, read.begin, read.end, read.count)
        values = _span_of(pool.values, read.begin, read.end, read.count)
        group = rows.shape[2]
        if group <= EXACT_HEADS or mask is None:
            return sdpa(rows, keys, values, mask, options)
        parts = [slice(head, head + EXACT_HEADS) for head in range(0, group, EXACT_HEADS)]
        return torch.cat(
            [sdpa(rows[:, :, part], keys, values, mask[:, :, part], options) for part in parts], dim=2
        )

    def _fast_rows(
        self, read: Read, rows: torch.Tensor, mask: torch.Tensor | None, pool: LayerPool, options: Options
    ) -> torch.Tensor:
        begin = _first_seen(read, options.window)
        if read.count == 1:
            keys = _span_of(pool.keys, begin, read.end, 1)
            return sdpa(rows, keys, _span_of(pool.values, begin, read.end, 1), None, options)
        keys = _spread_span_of(pool.keys, begin, read.end, rows.shape[2])
        values = _spread_span_of(pool.values, begin, read.end, rows.shape[2])
        return sdpa(rows.permute(1, 2, 0, 3), keys, values, mask, options).permute(2, 0, 1, 3)

    def _masks_of(self, packed: Packed, window: int | None, rows: torch.Tensor) -> list[torch.Tensor | None]:
        """One mask a read, made by the first layer that asks."""
        group = rows.shape[2]
        masks = packed.masks.get((window, group))
        if masks is None:
            make = self._exact_mask if self.exact else _fast_mask
            masks = [make(read, window, group, rows) for read in packed.reads]
            packed.masks[window, group] = masks
        return masks

    def _exact_mask(self, read: Read, window: int | None, group: int, rows: torch.Tensor) -> torch.Tensor:
        """A cut of one mask for all: the last keys of a read are those of its own block."""
        length, at = read.end - read.begin, read.start % BLOCK_TOKENS
        whole = self._block_masks.get(window)
        if whole is None or whole.shape[1] < length:
            whole = _lower(BLOCK_TOKENS, max(1024, 2 * length), window, rows)
            self._block_masks[window] = whole
        mask = whole[at : at + read.count, -length:]
        return mask[:, None, None].expand(-1, 1, group, -1)


def _first_seen(read: Read, window: int | None) -> int:
    return read.begin if window is None else max(read.begin, read.begin + read.start + 1 - window)


def _fast_mask(read: Read, window: int | None, group: int, rows: torch.Tensor) -> torch.Tensor | None:
    return None if read.count == 1 else _lower(read.count, read.end - _first_seen(read, window), window, rows)


def _lower(count: int, length: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
    """Additive [count, length]: row i is the token of key length - count + i."""
    keys = torch.arange(length, device=like.device)
    distance = keys[length - count :, None] - keys[None]
    hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
    mask = torch.zeros(count, length, dtype=like.dtype, device=like.device)
    return mask.masked_fill_(hidden, float("-inf"))


def sdpa(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    options: Options,
) -> torch.Tensor:
    """[batch, heads, tokens, size] over [batch, heads, keys, size]."""
    if options.softcap is None:
        return scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=options.scale)
    scale = query.shape[-1] ** -0.5 if options.scale is None else options.scale
    scores: torch.Tensor = torch.matmul(query, keys.transpose(-1, -2)) * scale
    scores = torch.tanh(scores / options.softcap) * options.softcap
    if mask is not None:
        scores = scores + mask
    return torch.matmul(torch.softmax(scores, dim=-1, dtype=torch.float32).to(values.dtype), values)
