"""Generation: one request of this node's user, from submission to its one terminal event.

`Conversation` is the driver's side (it collects tokens and the outcome), `Generation` the user's (an
asynchronous iterator). The driver never holds a Generation, so that one which the user drops, by leaving
its `async for`, is collected at once and cancels its request.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import assert_never

from llama_gossip.answer import Answer, Failover, Timings, Token, Usage
from llama_gossip.errors import (
    Cancelled,
    LlamaGossipError,
    ModelUnavailable,
    NoWorkers,
    PeerFailed,
    RequestTimeout,
    UsageError,
)
from llama_gossip.meters import Gaps
from llama_gossip.protocol import effects
from llama_gossip.protocol.messages import NodeId, RequestId
from llama_gossip.protocol.resumption import ResumeClass
from llama_gossip.protocol.transcript import verify_transcript
from llama_gossip.unread import Unread

UserEffect = (
    effects.Accepted
    | effects.DeliverTokens
    | effects.Retried
    | effects.FailedOver
    | effects.Finished
    | effects.Failed
)

CHECKED_AT_ONCE_BYTES = 64 * 1024  # some 600 frames, 40 ms: beyond it the event loop would stand still

_ERRORS: dict[str, type[LlamaGossipError]] = {
    "no_workers": NoWorkers,
    "model": ModelUnavailable,
    "too_long": UsageError,
    "bad_request": UsageError,
    "timeout": RequestTimeout,
    "cancelled": Cancelled,
}


def error_of(failed: effects.Failed) -> LlamaGossipError:
    """The exception a user sees, with the trail of attempts in its message."""
    trail = "; ".join(f"{worker.hex()[:10]}: {reason}" for worker, _, reason in failed.trail)
    message = f"{failed.message} [{trail}]" if trail else failed.message
    return _ERRORS.get(failed.code, PeerFailed)(message, hint=failed.hint, code=failed.code)


class Conversation:
    """What the driver knows of one request: it feeds `handle` and never looks back."""

    def __init__(
        self,
        request_id: RequestId,
        take_transcript: Callable[[RequestId], bytes],
        seed: int = 0,
        reader: Callable[[bool], None] = lambda full: None,
        *,
        model: str = "",
        gaps: Gaps | None = None,
        ended: Callable[[Conversation], None] = lambda conversation: None,
    ) -> None:
        """reader: see Unread. model: that is asked for. gaps: told of its tokens. ended: called once, at the
        terminal event, before whoever reads the answer hears of it."""
        self.request_id = request_id
        self.seed = seed
        self.model = model
        self.submitted_s = time.perf_counter()
        self.waiting = Unread(reader)
        self.answer: Answer | None = None
        self.error: LlamaGossipError | None = None
        self.accepted = asyncio.Event()
        self.attempts = 0
        self.worker: NodeId | None = None  # that has it now
        self.delivery = ""  # that worker's
        self.total_ms = 0.0  # once it has ended
        self.retries: list[effects.Retried] = []
        self.failovers: list[Failover] = []
        self._take_transcript = take_transcript
        self._changed = asyncio.Event()
        self._texts: list[str] = []
        self._first_s = self._last_s = 0.0
        self._weakest: ResumeClass | None = None
        self._tokens = 0
        self._gaps = gaps
        self._on_end = ended

    @property
    def tokens(self) -> int:
        """Handed out so far."""
        return self._tokens

    @property
    def first_token_ms(self) -> float | None:
        """From the submit; None: none has come."""
        return (self._first_s - self.submitted_s) * 1000 if self._tokens else None

    @property
    def ended(self) -> bool:
        return self.answer is not None or self.error is not None

    def handle(self, effect: UserEffect) -> None:
        match effect:
            case effects.Accepted():
                self.attempts, self.worker = effect.attempt, effect.worker
                self.delivery = str(effect.delivery)
                self.accepted.set()
            case effects.DeliverTokens():
                self._deliver(effect)
            case effects.Retried():
                self.attempts = max(self.attempts, effect.attempt)
                self.retries.append(effect)
                if not self._tokens:  # whoever took it has made nothing of it: nobody has it now
                    self.worker = None
                    self.accepted.clear()
            case effects.FailedOver():
                self._seam(effect)
            case effects.Finished():
                self._finish(effect)
            case effects.Failed():
                self._take_transcript(self.request_id)
                self.fail(error_of(effect))
            case _:
                assert_never(effect)

    def fail(self, error: LlamaGossipError) -> None:
        """The terminal event of a request that the core cannot end any more (the node was shut down)."""
        if not self.ended:
            self.error = error
            self.accepted.set()
            self._end(time.perf_counter())

    async def next(self) -> Token | None:
        """The next token; None at the successful end. Raises the request's error."""
        while not self.waiting:
            if self.error is not None:
                raise self.error
            if self.answer is not None:
                return None
            self._changed.clear()
            await self._changed.wait()
        return self.waiting.take()

    def _deliver(self, batch: effects.DeliverTokens) -> None:
        self._last_s = time.perf_counter()
        if not self._tokens:
            self._first_s = self._last_s
        if self._gaps is not None:
            self._gaps.tokens(self.request_id, len(batch.texts), self._last_s)
        self.attempts = batch.attempt
        self._tokens += len(batch.texts)
        self._texts += batch.texts
        nothing = (None,) * len(batch.texts)
        ids, logprobs = batch.token_ids or nothing, batch.logprobs or nothing
        self.waiting.put(
            Token(batch.index + offset, *token)
            for offset, token in enumerate(zip(ids, batch.texts, logprobs, strict=True))
        )
        self._changed.set()

    def _seam(self, effect: effects.FailedOver) -> None:
        self._weakest = effect.resume if self._weakest is None else min(self._weakest, effect.resume)
        self.failovers.append(
            Failover(
                attempt=effect.attempt,
                from_worker=effect.from_worker.hex(),
                to_worker=effect.to_worker.hex(),
                index=effect.index,
                gap_ms=float(effect.gap_ms),
                resume=effect.resume.word,
                reason=effect.reason,
            )
        )

    def _finish(self, finished: effects.Finished) -> None:
        """The answer, once its transcript was checked; a long one in a thread, where it holds up nothing."""
        transcript, ended_s = self._take_transcript(self.request_id), time.perf_counter()
        if len(transcript) <= CHECKED_AT_ONCE_BYTES:
            self._complete(finished, transcript, ended_s, verified=verify_transcript(transcript).verified)
            return
        check = asyncio.get_running_loop().run_in_executor(None, verify_transcript, transcript)
        check.add_done_callback(
            lambda done: self._complete(finished, transcript, ended_s, verified=done.result().verified)
        )

    def _complete(
        self, finished: effects.Finished, transcript: bytes, now_s: float, *, verified: bool
    ) -> None:
        span_s = self._last_s - self._first_s
        self.answer = Answer(
            request_id=self.request_id.hex(),
            seed=self.seed,
            text="".join(self._texts),
            finish_reason=finished.finish_reason.name.lower(),
            usage=Usage(finished.prompt_tokens, finished.total_tokens),
            model=finished.model,
            model_digest=finished.model_digest.hex() if finished.model_digest else None,
            worker=finished.worker.hex(),
            attempts=finished.attempt,
            delivery=str(finished.delivery),
            resume=None if self._weakest is None else self._weakest.word,
            verified=verified,
            timings=Timings(
                first_token_ms=((self._first_s or now_s) - self.submitted_s) * 1000,
                total_ms=(now_s - self.submitted_s) * 1000,
                tokens_per_s=(self._tokens - 1) / span_s if self._tokens > 1 and span_s > 0 else 0.0,
            ),
            transcript=transcript,
        )
        self._end(now_s)

    def _end(self, now_s: float) -> None:
        self.total_ms = (now_s - self.submitted_s) * 1000
        if self._gaps is not None:
            self._gaps.over(self.request_id)
        self._on_end(self)
        self._changed.set()


class Generation:
    """An answer on its way: `async for token in generation`. Leaving the loop cancels the request.

    After the loop `answer` holds the whole; `complete()` waits for it. Raises NoWorkers, ModelUnavailable,
    PeerFailed, RequestTimeout, Cancelled, UsageError.
    """

    def __init__(self, conversation: Conversation, cancel: Callable[[RequestId, str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._conversation = conversation
        self._cancel = cancel

    @property
    def request_id(self) -> str:
        """32 hex characters."""
        return self._conversation.request_id.hex()

    @property
    def answer(self) -> Answer | None:
        """The whole answer, once the last token has come."""
        return self._conversation.answer

    @property
    def worker(self) -> str | None:
        """Node id of the worker that accepted the newest attempt; None before."""
        worker = self._conversation.worker
        return worker.hex() if worker is not None else None

    @property
    def retries(self) -> list[effects.Retried]:
        """Attempts that ended without success, and why."""
        return self._conversation.retries

    @property
    def failovers(self) -> list[Failover]:
        """Seams so far: where another worker took the answer up."""
        return self._conversation.failovers

    def __aiter__(self) -> AsyncIterator[Token]:
        return self

    async def __anext__(self) -> Token:
        try:
            token = await self._conversation.next()
        except asyncio.CancelledError:
            self.cancel("the task that read the answer was cancelled")
            raise
        if token is None:
            raise StopAsyncIteration
        return token

    @property
    def has_token(self) -> bool:
        """Whether one can be read without waiting."""
        return bool(self._conversation.waiting)

    def arrived(self) -> list[Token]:
        """The tokens that are there already, without waiting: [] when none is."""
        return self._conversation.waiting.take_all()

    async def accepted(self) -> None:
        """Returns when a worker has taken the request: its first word has come, and was no refusal. Raises as
        the iteration does when it ends before that."""
        conversation = self._conversation
        while not conversation.ended and conversation.worker is None:
            await conversation.accepted.wait()
        if conversation.error is not None and not conversation.waiting:
            raise conversation.error

    async def complete(self) -> Answer:
        """Reads to the end and returns the answer."""
        async for _ in self:
            pass
        assert self._conversation.answer is not None  # `next` returned None, which it does only then
        return self._conversation.answer

    def cancel(self, reason: str = "cancelled by the user") -> None:
        """Ends the request: the worker stops within one step. Harmless after the end."""
        if not self._conversation.ended:
            self._cancel(self._conversation.request_id, reason)

    async def aclose(self) -> None:
        """Cancels what still runs."""
        self.cancel()

    def __del__(self) -> None:
        conversation: Conversation | None = getattr(self, "_conversation", None)
        if conversation is not None and not conversation.ended:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nothing runs any more
                self._loop.call_soon_threadsafe(
                    self._cancel, conversation.request_id, "the answer is not read any more"
                )
