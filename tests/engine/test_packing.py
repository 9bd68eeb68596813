"""Packing: the integers of GGUF blocks mean what gguf says, and the kernel computes with them."""

from __future__ import annotations

import numpy as np
import pytest

from llama_gossip.engine.packing import PACKED_KINDS, Blocks, Int4, blocks_of, quantised

torch = pytest.importorskip("torch")


def raw_blocks(kind: str, rows: int = 48, width: int = 96) -> np.ndarray:
    from gguf import GGMLQuantizationType, quants

    values = np.random.default_rng(3).standard_normal((rows, width)).astype(np.float32)
    return quants.quantize(values, GGMLQuantizationType[kind])


@pytest.mark.parametrize("kind", PACKED_KINDS)
def test_values_are_those_of_gguf_to_the_bit(kind: str) -> None:
    from gguf import GGMLQuantizationType, quants

    raw = raw_blocks(kind)
    wanted = quants.dequantize(raw, GGMLQuantizationType[kind])
    assert np.array_equal(blocks_of(raw, kind).values().numpy(), wanted)


@pytest.mark.parametrize("kind", PACKED_KINDS)
@pytest.mark.parametrize("rows", [48, 37])
def test_the_kernel_multiplies_by_these_values(kind: str, rows: int) -> None:
    blocks = blocks_of(raw_blocks(kind, rows), kind)
    x = torch.randn(5, 96, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = Int4(blocks)(x).float()
    wanted = x.float() @ blocks.values().t()
    assert found.shape == (5, rows)
    assert (found - wanted).abs().max() < 0.02 * wanted.abs().max()  # bf16 scales and results


@pytest.mark.parametrize(("bits", "levels"), [(4, 15), (8, 254)])
def test_quantised_values_lie_within_half_a_level(bits: int, levels: int) -> None:
    values = torch.randn(8, 64, generator=torch.Generator().manual_seed(2))
    values[0, :32] = 0.5  # a block of one value
    values[1, :32] = 0.0
    blocks = quantised(values, bits)
    grouped = values.view(8, 2, 32)
    spread = grouped.amax(-1) - grouped.amin(-1) if bits == 4 else 2 * grouped.abs().amax(-1)
    off = (blocks.values() - values).view(8, 2, 32).abs().amax(-1)
    assert (off <= spread / levels / 2 + 1e-6).all()


def test_eight_bits_keep_their_ends() -> None:
    q = torch.arange(-128, 128, dtype=torch.int8).view(1, 256).repeat(16, 1)
    scale = torch.full((16, 8), 0.5)
    x = torch.eye(256).bfloat16()
    assert torch.equal(Int4(Blocks(q, scale, None))(x)[:, 0].float(), 0.5 * q[0].float())
