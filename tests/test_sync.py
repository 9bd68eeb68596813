"""SyncNode: outside of its `with` nothing waits, an interrupt loses nothing, no thread or loop is left."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from llama_gossip import InferenceNode, NoWorkers, TransportError, UsageError, load_engine
from llama_gossip.directories import Directories
from llama_gossip.sync import SyncNode

pytestmark = [
    pytest.mark.live,
    pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning", "error::RuntimeWarning"),
]


@pytest.fixture(autouse=True)
def _no_garbage_of_other_tests() -> None:
    """What dies late and loudly elsewhere must not be taken for ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.fixture
def dirs(tmp_path: Path) -> Directories:
    return Directories.find({"LLAMA_GOSSIP_HOME": str(tmp_path / "home")})


def loops() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "llama-gossip loop"]


def test_a_node_that_was_never_opened_refuses_and_leaves_no_loop(dirs: Directories) -> None:
    node = InferenceNode.sync(dirs=dirs)
    for call, arguments in (
        (node.peers, ()),
        (node.stats, ()),
        (node.ticket, ()),
        (node.complete, ("Hello",)),
    ):
        with pytest.raises(TransportError, match="not open") as caught:
            call(*arguments)  # type: ignore[operator]
        assert caught.value.hint
    del node, call
    gc.collect()
    assert loops() == []


def test_a_node_that_was_closed_refuses_and_its_answers_end_in_silence(dirs: Directories) -> None:
    with InferenceNode.sync(engine=load_engine("scripted:delay_ms=20"), dirs=dirs) as node:
        generation = node.generate("Hello", max_tokens=10_000)
        tokens = iter(generation)
        next(tokens)
    assert loops() == []
    with pytest.raises(TransportError, match="not open"):
        node.peers()
    with pytest.raises(TransportError, match="not open"):
        next(tokens)
    generation.cancel()
    del tokens, generation
    gc.collect()


def test_an_iterator_that_is_closed_after_its_node_ends_in_silence(dirs: Directories) -> None:
    with InferenceNode.sync(engine=load_engine("scripted:delay_ms=20"), dirs=dirs) as node:
        tokens = iter(node.generate("Hello", max_tokens=10_000))
        next(tokens)
    tokens.close()  # type: ignore[attr-defined]


def test_a_node_opens_once_at_a_time_and_again_after_its_end(dirs: Directories) -> None:
    node = InferenceNode.sync(dirs=dirs)
    with node:
        with pytest.raises(UsageError, match="open already"):
            node.__enter__()
        assert node.peers() == []
    with node:
        assert node.peers() == []
    assert loops() == []


def test_a_node_that_cannot_open_leaves_nothing_behind(dirs: Directories) -> None:
    with pytest.raises(TransportError), InferenceNode.sync(dirs=dirs, name="same"):
        raise TransportError("the block fails")
    for _ in range(2):
        with (
            pytest.raises(Exception, match="reach"),
            InferenceNode.sync(dirs=dirs, name="same", reach="moon"),
        ):
            pytest.fail("it opened")
    assert loops() == []
    with InferenceNode.sync(dirs=dirs, name="same"):
        pass


def test_an_iterator_collected_in_the_loops_own_thread_does_not_stop_the_node(dirs: Directories) -> None:
    with InferenceNode.sync(engine=load_engine("scripted:delay_ms=20"), dirs=dirs) as node:
        held: list[Any] = [iter(node.generate("Hello", max_tokens=10_000))]
        next(held[0])
        node._call(held.clear)
        assert node.stats()["requests"] == 1


class Interrupted(SyncNode):
    """Its waiting thread is interrupted, as Ctrl-C does it: in the n-th wait."""

    def __init__(self, options: dict[str, Any], in_wait: int) -> None:
        super().__init__(options)
        self.waits_left = in_wait

    def _run(self, work: Any, timeout_s: float | None = None) -> Any:
        self.waits_left -= 1
        if self.waits_left:
            return super()._run(work, timeout_s)
        assert self._loop is not None
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        future.cancel()
        raise KeyboardInterrupt


def test_an_interrupt_while_it_opens_gives_everything_back(dirs: Directories) -> None:
    with pytest.raises(KeyboardInterrupt), Interrupted({"dirs": dirs, "name": "same"}, 1):
        pytest.fail("it opened")
    assert loops() == []
    with InferenceNode.sync(dirs=dirs, name="same"):
        pass


def test_an_interrupt_while_it_answers_ends_the_answer_and_not_the_node(dirs: Directories) -> None:
    engine = load_engine("scripted:delay_ms=20")
    with Interrupted({"dirs": dirs, "engine": engine}, 3) as node:  # open, submit, the first token
        with pytest.raises(KeyboardInterrupt):
            node.complete("Hello", max_tokens=10_000)
        assert node.complete("Hello", max_tokens=3).text
    assert loops() == []


def test_an_interrupt_while_it_closes_still_ends_the_node(
    dirs: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(timeout_s: float) -> None:
        raise KeyboardInterrupt

    node = InferenceNode.sync(dirs=dirs, name="same").__enter__()
    (thread,) = loops()
    monkeypatch.setattr(thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        node.__exit__(None, None, None)
    threading.Thread.join(thread, 60)
    assert loops() == []
    del node
    gc.collect()
    with InferenceNode.sync(dirs=dirs, name="same"):
        pass


def test_what_is_wrong_is_raised_in_the_callers_thread(dirs: Directories) -> None:
    with InferenceNode.sync(dirs=dirs) as node:
        with pytest.raises(UsageError):
            node.generate("Hello", max_tokens=0)
        with pytest.raises(NoWorkers):
            node.complete("Hello")
