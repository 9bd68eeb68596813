"""Llama weights in memory: fused matrices in the precision asked for, the embedding, and the exact head rows.

The law: q, k and v are one matrix, gate and up are one; integers of a GGUF are used as they are; in a 4-bit
file whatever is stored finer keeps eight bits. Nothing here depends on who asks for what.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from .llama_config import check_blocks
from .llama_sources import EMBEDDING, HEAD, NORM, Source, paired
from .packing import BLOCK, Blocks, Int4, quantised

if TYPE_CHECKING:
    import torch

QUANTISED: Final = {"q4": 4, "q8": 8}  # dtype word: bits a weight
DTYPES: Final = {"q4": "bfloat16", "q8": "bfloat16", "bf16": "bfloat16", "fp32": "float32"}  # of activations


class Matrix(Protocol):
    @property
    def rows(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def nbytes(self) -> int: ...

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[n, width] to [n, rows], in the activations' dtype."""


class Plain:
    """An unquantised matrix."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight

    @property
    def rows(self) -> int:
        return int(self.weight.shape[0])

    @property
    def width(self) -> int:
        return int(self.weight.shape[1])

    @property
    def nbytes(self) -> int:
        return int(self.weight.nbytes)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.nn.functional.linear(x, self.weight)

    def shares(self, rows: Rows) -> bool:
        return isinstance(rows, PlainRows) and rows.weight is self.weight


class PlainRows:
    """A table whose rows are asked for by id."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight

    @property
    def nbytes(self) -> int:
        return int(self.weight.nbytes)

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """fp32 [ids, width]."""
        return self.weight[ids].float()


class BlockRows:
    """The same from eight bits and fp32 scales, so exactly the file's values."""

    def __init__(self, blocks: Blocks) -> None:
        self._q, self._scale = blocks.q, blocks.scale

    @property
    def nbytes(self) -> int:
        return int(self._q.nbytes + self._scale.nbytes)

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        grouped = self._q[ids].view(len(ids), -1, BLOCK).float() * self._scale[ids][..., None]
        return grouped.view(len(ids), -1)


Rows: TypeAlias = PlainRows | BlockRows


@dataclass(frozen=True, slots=True)
class Layer:
    attention_norm: torch.Tensor  # fp32
    qkv: Matrix  # q, k and v rows; those of q and k in pairs
    out: Matrix
    mlp_norm: torch.Tensor  # fp32
    gate_up: Matrix
    down: Matrix

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        return self.qkv, self.out, self.gate_up, self.down


@dataclass(frozen=True, slots=True)
class LlamaWeights:
    embedding: Rows
    layers: tuple[Layer, ...]
    norm: torch.Tensor  # fp32
    head: Matrix  # of two-stage heads the coarse stage
    exact_head: Rows | None  # None: `head` is exact

    @property
    def nbytes(self) -> int:
        """Bytes of memory; a table that is embedding and head counts once."""
        tables = {id(table): table.nbytes for table in (self.embedding, self.exact_head) if table is not None}
        matrices = sum(matrix.nbytes for layer in self.layers for matrix in layer.matrices)
        shared = isinstance(self.head, Plain) and self.head.shares(self.embedding)
        return matrices + sum(tables.values()) + (0 if shared else self.head.nbytes)


def read_weights(source: Source, dtype: str) -> LlamaWeights:
    """`dtype` is a key of DTYPES. Raises Unsuitable for a shape that it cannot have."""
    if dtype in QUANTISED:
        check_blocks(source.config.shape)
    builder = _Builder(source, dtype)
    layers = tuple(builder.layer(number) for number in range(source.config.shape.layers))
    head_name = EMBEDDING if source.config.tied else HEAD
    if dtype not in QUANTISED:
        table = builder.plain(EMBEDDING)
        head = table if source.config.tied else builder.plain(HEAD)
        return LlamaWeights(PlainRows(table), layers, builder.norm(NORM), Plain(head), None)
    embedding = builder.table(EMBEDDING)
    exact = embedding if source.config.tied else builder.table(HEAD)
    coarse = Int4(quantised(source.values(head_name), 4))
    return LlamaWeights(embedding, layers, builder.norm(NORM), coarse, exact)


class _Builder:
    def __init__(self, source: Source, dtype: str) -> None:
        import torch

        self.source, self.dtype = source, dtype
        self.act = getattr(torch, DTYPES[dtype])
        self.head_dim = source.config.shape.head_dim

    def layer(self, number: int) -> Layer:
        at = f"model.layers.{number}"
        attention, mlp = f"{at}.self_attn", f"{at}.mlp"
        return Layer(
            attention_norm=self.norm(f"{at}.input_layernorm"),
            qkv=self.matrix(*(f"{attention}.{name}_proj" for name in "qkv")),
            out=self.matrix(f"{attention}.o_proj"),
            mlp_norm=self.norm(f"{at}.post_attention_layernorm"),
            gate_up=self.matrix(f"{mlp}.gate_proj", f"{mlp}.up_proj"),
            down=self.matrix(f"{mlp}.down_proj"),
        )

    def norm(self, name: str) -> torch.Tensor:
        return self.source.values(name).float()

    def plain(self, name: str) -> torch.Tensor:
        return self.turned(name).to(self.act).contiguous()

    def turned(self, name: str) -> torch.Tensor:
        """The values, q and k rows in pairs."""
        values = self.source.values(name)
        return paired(values, self.head_dim) if name.endswith(("q_proj", "k_proj")) else values

    def matrix(self, *names: str) -> Matrix:
        import torch

        if self.dtype not in QUANTISED:
            return Plain(torch.cat([self.plain(name) for name in names]))
        parts = [self.blocks(name, QUANTISED[self.dtype]) for name in names]
        if len({part.minimum is None for part in parts}) == 2:  # one kernel call has one number of bits
            parts = [self.blocks(name, 8) for name in names]
        return Int4(_joined(parts))

    def blocks(self, name: str, bits: int) -> Blocks:
        found = self.source.blocks(name)
        if found is not None and (found[0] == "Q8_0") == (bits == 8):
            return found[1]
        if bits == 4 and self.source.quantisation.startswith("q4") and self.source.is_quantised(name):
            return self.blocks(name, 8)
        return quantised(self.turned(name), bits)

    def table(self, name: str) -> Rows:
        if self.source.is_quantised(name):
            return BlockRows(self.blocks(name, 8))
        return PlainRows(self.source.values(name))


def _joined(parts: list[Blocks]) -> Blocks:
    import torch

    minima = [part.minimum for part in parts if part.minimum is not None]
    return Blocks(
        torch.cat([part.q for part in parts]),
        torch.cat([part.scale for part in parts]),
        torch.cat(minima) if minima else None,
    )
