"""Checks of a lean Llama at load: that it computes the model, and that its steps are exact.

The law: nothing is announced that was not seen to hold here. The model is compared with a second, plain fp32
computation of a few tokens that shares neither packing, nor fused matrices, nor rope order, nor cache; a step
is called exact only when rows alone, padded, chunked, in company and on one thread gave the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from llama_gossip.errors import EngineError

from .forward import BLOCK_TOKENS, Draw, Segment, Span
from .llama_sources import EMBEDDING, HEAD, NORM, Source
from .llama_step import LlamaForward
from .llama_weights import DTYPES, QUANTISED, LlamaWeights, Matrix
from .packing import Blocks, quantised

if TYPE_CHECKING:
    import torch

PADS: Final = (0, 2, 4, 8, 16)  # rows; int4 kernels need 0, bf16 2, fp32 4 on the CPUs seen
SIZES: Final = (
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    9,
    15,
    16,
    17,
    31,
    33,
    64,
    256,
)  # rows of a step: the kernels' edges
HEAD_SIZES: Final = SIZES[:11]  # draws of a step
TOKENS: Final = 6  # of the comparison with the plain computation
COMPARED: Final = 32  # logits, the highest
# Of the logits' own spread: roundings of activations and scales. Wrong weights are off by 0.5 and more; at
# four bits a model whose file holds more of them comes near that.
OFF: Final = {"fp32": 1e-3, "bf16": 0.2, "q8": 0.35, "q4": 0.35}
OFF_REQUANTISED: Final = 0.6
GREEDY: Final = Draw(0.0, 0, 0)


def check_model(forward: LlamaForward, source: Source) -> None:
    """Raises EngineError where the step is no such model. The pool's contents are lost."""
    ids = [(7 + 31 * i) % forward.vocabulary for i in range(TOKENS)]
    forward.reserve(1)
    found = forward.run([Segment(Span(0, 1), 0, ids, GREEDY)])[0]
    bits = QUANTISED.get(forward.dtype)
    rounded = bits is not None and source.quantisation == "none"
    wanted = plain_logits(_Rounded(source, bits) if rounded and bits else source, ids)
    best = wanted.topk(min(COMPARED, len(wanted))).indices  # where a head of two stages is exact
    off = float((found - wanted)[best].square().mean().sqrt() / wanted.std())
    other = bits is not None and not rounded and not source.quantisation.startswith(forward.dtype)
    if not off <= (OFF_REQUANTISED if other else OFF[forward.dtype]):
        raise EngineError(
            f"the lean step computes another model than was loaded: off by {off:.3g} of the logits' spread",
            hint="choose another --dtype, and report the file",
        )


class _Rounded:
    """A source's values as they are after quantisation at load: what the step must compute."""

    def __init__(self, source: Source, bits: int) -> None:
        self._source, self._bits = source, bits
        self.config, self.quantisation = source.config, source.quantisation

    def values(self, name: str) -> torch.Tensor:
        values = self._source.values(name)
        return quantised(values, self._bits).values() if name.endswith("_proj") else values

    def blocks(self, name: str) -> tuple[str, Blocks] | None:
        return self._source.blocks(name)

    def is_quantised(self, name: str) -> bool:
        return self._source.is_quantised(name)


def plain_logits(source: Source, ids: Sequence[int]) -> torch.Tensor:
    """fp32 [vocabulary] behind the last id, from the hub's tensors one by one."""
    import torch

    config = source.config
    shape = config.shape
    angles = torch.arange(len(ids)).float()[:, None] * torch.from_numpy(config.frequencies())
    cos, sin = (torch.cat((part, part), dim=-1)[:, None] for part in (angles.cos(), angles.sin()))

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ source.values(name).float().t()

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x * (x.square().mean(-1, keepdim=True) + config.eps).rsqrt() * source.values(name).float()

    def turned(x: torch.Tensor) -> torch.Tensor:
        low, high = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-high, low), dim=-1) * sin

    with torch.inference_mode():
        embedding = source.values(EMBEDDING)
        x = embedding[list(ids)].float()
        for layer in range(shape.layers):
            at = f"model.layers.{layer}"
            h = norm(x, f"{at}.input_layernorm")
            q, k, v = (
                linear(h, f"{at}.self_attn.{name}_proj").view(len(ids), -1, shape.head_dim) for name in "qkv"
            )
            k, v = (part.repeat_interleave(config.group, dim=1) for part in (turned(k), v))
            scores = torch.einsum("qhd,khd->hqk", turned(q), k) / shape.head_dim**0.5
            scores = scores.masked_fill(torch.ones(len(ids), len(ids)).triu(1).bool(), float("-inf"))
            mixed = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1)
            x = x + linear(mixed, f"{at}.self_attn.o_proj")
            h = norm(x, f"{at}.post_attention_layernorm")
            gate = torch.nn.functional.silu(linear(h, f"{at}.mlp.gate_proj"))
            x = x + linear(gate * linear(h, f"{at}.mlp.up_proj"), f"{at}.mlp.down_proj")
        head = embedding if config.tied else source.values(HEAD)
        return norm(x[-1], NORM) @ head.float().t()


def probed_pad(weights: LlamaWeights, dtype: str) -> int | None:
    """The fewest rows from which on every matrix treats each row alone. None: there is no such number."""
    import torch

    act = getattr(torch, DTYPES[dtype])
    alike = dict.fromkeys(SIZES, True)
    probes = [*((matrix, SIZES) for matrix in weights.layers[0].matrices), (weights.head, HEAD_SIZES)]
    with torch.inference_mode():
        for matrix, sizes in probes:
            for size in _sizes_that_differ(matrix, sizes, act):
                alike[size] = False
    return next((pad for pad in PADS if all(ok for size, ok in alike.items() if size >= pad)), None)


def _sizes_that_differ(matrix: Matrix, sizes: Sequence[int], act: torch.dtype) -> list[int]:
    import torch

    x = torch.randn(sizes[-1] + 1, matrix.width, generator=torch.Generator().manual_seed(0)).to(act)
    whole = matrix(x)

    def differs(begin: int, end: int) -> bool:
        return not torch.equal(matrix(x[begin:end]), whole[begin:end])

    return [size for size in sizes if differs(0, size) or differs(1, size + 1)]


def is_exact(forward: LlamaForward) -> bool:
    """Whether whole steps gave the same bits alone and in company, chunked and not, on one thread and on all.
    The pool's contents are lost."""
    import torch

    threads = torch.get_num_threads()
    forward.reserve(16)
    alone = _alone(forward, (_KNOWN, _TOKENS))
    if not torch.equal(alone, _in_company(forward)):
        return False
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        return bool(torch.equal(alone[-1:], _alone(forward, (_TOKENS,))))
    finally:
        torch.set_num_threads(threads)


_SPAN: Final = 2  # blocks; the row grows over the edge of the first
_KNOWN: Final = BLOCK_TOKENS - 2  # tokens before the first draw
_TOKENS: Final = BLOCK_TOKENS + 3


def _ids(forward: LlamaForward, salt: int) -> list[int]:
    return [(11 + 17 * i + 101 * salt) % forward.vocabulary for i in range(_TOKENS)]


def _alone(forward: LlamaForward, lengths: Sequence[int]) -> torch.Tensor:
    """Behind so many tokens, each time from one prompt."""
    import torch

    ids = _ids(forward, 0)
    return torch.cat([forward.run([Segment(Span(0, _SPAN), 0, ids[:end], GREEDY)]) for end in lengths])


def _in_company(forward: LlamaForward) -> torch.Tensor:
    """The same row by two chunks, then by single tokens, among others that come and go."""
    import torch

    rows = [(_ids(forward, salt), Span(3 * salt, _SPAN)) for salt in range(5)]
    ids, span = rows[0]
    forward.run([Segment(at, 0, other[:5], None) for other, at in rows])
    others = [Segment(at, 5, other[5:8], None) for other, at in rows[1:3]]
    found = [forward.run([*others, Segment(span, 5, ids[5:_KNOWN], GREEDY)])]
    for position in range(_KNOWN, _TOKENS):
        beside = rows[1 : 1 + (position % 3) * 2]
        others = [Segment(at, 8, other[8:9], GREEDY) for other, at in beside]
        logits = forward.run([Segment(span, position, ids[position : position + 1], GREEDY), *others])
    return torch.cat([*found, logits[:1]])
