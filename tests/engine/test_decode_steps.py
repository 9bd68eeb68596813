"""Decode steps of fixed shape: equal to packed steps whatever the rows, over buffers that stay.

On a CPU the step function runs over the same buffers that a GPU would record it with.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from llama_gossip.engine import acceleration, decode_steps, selfcheck, tiny_random
from llama_gossip.engine.decode_steps import ROWS, SHORTEST, DecodeSteps
from llama_gossip.engine.forward import Draw, Segment, Span
from llama_gossip.engine.graphs import Graphs
from llama_gossip.engine.packed import PackedForward
from tests.engine.test_families import FAMILIES, made

DRAW = Draw(0.7, 5, 0)
STEPPED = ("llama", "mistral", "gemma2", "gemma3_text", "mixtral", "gpt2")


@pytest.fixture(scope="module")
def module() -> Any:
    return tiny_random.module().eval().requires_grad_(False)


def stepping(module: Any) -> PackedForward:
    forward = PackedForward(module, device="cpu", exact=False)
    forward.steps = acceleration.decode_steps(forward)
    return forward


def program(chance: random.Random, steps: int, most: int = 6) -> list[list[tuple[int, int]]]:
    """Steps of (row, ids fed): rows come, wait, go on and begin again."""
    rows = range(most)
    return [
        [
            (row, 1 if chance.random() < 0.8 else chance.randrange(2, 20))
            for row in rows
            if chance.random() < 0.7
        ]
        for _ in range(steps)
    ]


def played(forward: PackedForward, steps: list[list[tuple[int, int]]], vocabulary: int) -> list[torch.Tensor]:
    forward.reserve(64)
    with torch.inference_mode():
        for pool in forward._pools:  # whatever was there before
            pool.keys.fill_(float("nan"))
            pool.values.fill_(float("nan"))
    lengths: dict[int, int] = {}
    found = []
    for step in steps:
        segments = []
        for row, count in step:
            if lengths.get(row, 0) + count > 160:
                lengths[row] = 0
            start = lengths.get(row, 0)
            ids = [(3 + 7 * row + 5 * (start + n)) % vocabulary for n in range(count)]
            segments.append(Segment(Span(50 - 10 * row, 10), start, ids, DRAW))
            lengths[row] = start + count
        found += [logits.clone() for logits in forward.run(segments)] if segments else []
    return found


@pytest.mark.parametrize("family", STEPPED)
def test_random_programs_compute_what_packed_steps_do(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = made(family, FAMILIES[family])
    taken: list[int] = []
    run = DecodeSteps.run

    def counted(steps: DecodeSteps, segments: Any, spare: int) -> Any:
        found = run(steps, segments, spare)
        taken.append(found is not None)
        return found

    monkeypatch.setattr(DecodeSteps, "run", counted)
    monkeypatch.setattr(decode_steps, "SHORTEST", 32)  # several shapes in few steps
    steps = program(random.Random(family), 60)
    forward, packed = stepping(module), PackedForward(module, device="cpu", exact=False)
    pairs = list(zip(played(forward, steps, 200), played(packed, steps, 200), strict=True))
    assert max(selfcheck.apart(ours, right) for ours, right in pairs) < 1e-4
    assert all(ours.argmax() == right.argmax() for ours, right in pairs)
    assert 15 < sum(taken) < len(taken)


def test_shapes_are_few_and_their_buffers_stay(module: Any) -> None:
    forward = stepping(module)
    forward.reserve(128)
    assert forward.steps is not None
    seen: dict[Any, set[int]] = {}
    for rows in (1, 2, 3, 5, 8, 3, 1, 33, 60, 100, 128, 3):
        segments = [Segment(Span(row, 1), 0, [row], DRAW) for row in range(rows)]
        logits = forward.run(segments)
        assert logits.shape == (rows, forward.vocabulary)
        for shape, step in forward.steps._steps.items():
            seen.setdefault(shape, set()).add(step._inputs.data_ptr())
    assert sorted(seen) == [(rows, SHORTEST) for rows in ROWS if rows not in (16, 32)]
    assert all(len(addresses) == 1 for addresses in seen.values())


def test_other_steps_are_left_to_the_packed_way(module: Any) -> None:
    steps = stepping(module).steps
    assert steps is not None
    one, room = Segment(Span(0, 1), 0, [1], DRAW), Span(0, 1)
    assert steps._shape_of([one]) == (1, SHORTEST)
    for other in ([Segment(room, 0, [1, 2], DRAW)], [Segment(room, 0, [1], None)], [one] * 129, []):
        assert steps._shape_of(other) is None
    long = Segment(Span(0, 200), SHORTEST, [1], DRAW)
    assert steps._shape_of([one, long]) == (2, 2 * SHORTEST)
    longer = Segment(Span(0, 8192), (1 << 17) - 1, [1], DRAW)
    assert steps._shape_of([longer]) == (1, 1 << 17)
    assert steps._shape_of([longer, one]) is None  # their keys would be copied together


def test_a_segment_beyond_its_span_is_refused_as_ever(module: Any) -> None:
    forward = stepping(module)
    forward.reserve(4)
    with pytest.raises(ValueError, match="do not fit"):
        forward.run([Segment(Span(1, 1), 16, [1], DRAW)])


def test_what_cannot_be_recorded_is_packed_and_tried_once(
    module: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = stepping(module)
    tries: list[int] = []

    def refused(graphs: Graphs, work: Any) -> Any:
        tries.append(1)
        work()  # half done
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Graphs, "_record", refused)
    assert forward.steps is not None
    forward.steps._graphs = Graphs("cuda:0")
    steps = [[(0, 5), (1, 3)], *[[(0, 1), (1, 1)]] * 4, [(0, 1)], [(1, 1)]]
    plain = played(PackedForward(module, device="cpu", exact=False), steps, 259)
    ours = played(forward, steps, 259)
    assert all(torch.equal(row, right) for row, right in zip(ours, plain, strict=True))
    assert len(tries) == 2  # steps of two rows and of one
    assert not forward.steps.works


def test_a_new_pool_forgets_what_was_recorded(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for a recording that reads the pool where it was: the work of the time."""
    forward = stepping(module)

    class Recording:
        def __init__(self, work: Any) -> None:
            self.replay = work

    monkeypatch.setattr(Graphs, "_record", lambda graphs, work: Recording(work))
    assert forward.steps is not None
    forward.steps._graphs = graphs = Graphs("cuda:0")
    forward.reserve(4)
    forward.run([Segment(Span(1, 1), 0, [1], DRAW)])
    assert graphs.any
    forward.reserve(8)
    assert not graphs.any
