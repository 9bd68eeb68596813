"""Threads are chosen by how long steps take, and used by how wide a step is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping

import pytest

from llama_gossip.engine import threads
from llama_gossip.engine.load import load_engine
from llama_gossip.engine.threads import NARROW_ROWS, Threads, fastest, timed
from llama_gossip.engine.torch_engine import TorchEngine

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)


def steps_that_take(monkeypatch: pytest.MonkeyPatch, seconds: Mapping[int, float]) -> Callable[[], None]:
    """A step on a clock of its own, by the number of torch's threads."""
    now_s = 0.0

    def step() -> None:
        nonlocal now_s
        now_s += seconds[torch.get_num_threads()]

    monkeypatch.setattr(threads.time, "perf_counter", lambda: now_s)
    return step


@pytest.mark.parametrize(
    ("seconds", "count"),
    [
        ({8: 1.0, 4: 2.0}, 8),
        ({8: 4.0, 4: 2.0, 2: 1.0, 1: 3.0}, 2),
        ({8: 4.0, 4: 3.0, 2: 2.0, 1: 1.0}, 1),
        ({8: 1.0, 4: 1.04, 2: 1.9}, 4),
        ({6: 2.0, 3: 1.0, 1: 1.5}, 3),
        ({1: 1.0}, 1),
    ],
)
def test_halving_goes_on_while_it_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], count: int
) -> None:
    found = fastest(steps_that_take(monkeypatch, seconds), max(seconds), 3)
    assert found.threads == count
    assert found.least_s == pytest.approx(seconds[count])


def test_the_first_step_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = iter([100.0, 1.0, 3.0])
    now_s = 0.0

    def step() -> None:
        nonlocal now_s
        now_s += next(durations)

    monkeypatch.setattr(threads.time, "perf_counter", lambda: now_s)
    found = timed(step, 1, 2)
    assert (found.least_s, found.mean_s) == (1.0, 2.0)


def test_wide_steps_have_threads_of_their_own() -> None:
    found = []

    def work() -> None:
        chosen = Threads(narrow=1, wide=3)
        for rows in (1, NARROW_ROWS + 1, NARROW_ROWS):
            chosen.use(rows)
            found.append(torch.get_num_threads())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [1, 3, 1]


def test_what_the_user_asked_for_is_kept() -> None:
    engine = load_engine("tiny-random", threads=3)
    assert isinstance(engine, TorchEngine)
    try:
        assert (engine.batch.threads.narrow, engine.batch.threads.wide) == (3, 3)
    finally:
        engine.close()
