"""The scripted engine: words instead of a model. For tests, benches and demonstrations; no torch.

The law: the token at an index is a pure function of (prompt, seed, index), so an answer continues exactly
wherever it was cut, on any worker. It can be slowed down, paced for a whole worker, and made to fail on
purpose. Text is made of words with spaces, some of them several bytes long.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final, assert_never

from llama_gossip.engine.base import EngineInfo, EngineJob, FailureCode
from llama_gossip.engine.jobs import (
    Answer,
    JobError,
    check_config,
    check_ids,
    check_length,
    check_resume,
    ids_digest,
)
from llama_gossip.engine.memory import memory_available
from llama_gossip.engine.rows import Ended, Outcome, PoolUse, Prefilled, Sampled
from llama_gossip.engine.stepped import SteppedEngine
from llama_gossip.errors import UsageError
from llama_gossip.protocol.messages import (
    ChatPrompt,
    IdsPrompt,
    NumericsClass,
    Prompt,
    RawPrompt,
    Resume,
    TokenLogprob,
)

_HEADS: Final = (
    "ba",
    "de",
    "fi",
    "go",
    "ku",
    "la",
    "me",
    "ni",
    "po",
    "ru",
    "sa",
    "te",
    "vi",
    "zö",
    "東",
    "👩‍💻",
)
_TAILS: Final = ("", "n", "ri", "to", "la", "mu", "sé", "da", "ko", "pi", "ve", ",", ".", "?", "京", "🎈")
WORDS: Final = tuple(f" {head}{tail}" for head in _HEADS for tail in _TAILS)
VOCABULARY: Final = len(WORDS)  # 256: prompt ids are the bytes of its text
NUMERICS_ID: Final = "scripted-1"
DIGEST: Final = hashlib.sha256(b"llama-gossip/scripted/v1\0" + "".join(WORDS).encode()).digest()
UNLIKELY: Final = -100.0  # log probability of the alternatives: the script is certain
UNHURRIED_TOKENS_PER_S: Final = 10_000.0  # what a script without delay is said to do


@dataclass(frozen=True, slots=True)
class Script:
    """How the engine behaves. Also the options of a spec: `scripted:delay_ms=20,fail_after=5`."""

    delay_ms: float = 0.0  # between two steps; a step gives every running request a token
    paced: bool = False  # instead, a step gives one token to one request, in turn
    prefill_chunk: int = 0  # prompt bytes a step; 0: the prompt costs nothing
    context: int = 262_144
    stop_after: int | None = None  # the answer's natural end, in tokens
    fail_before_first: bool = False
    fail_after: int | None = None  # tokens made in this attempt
    hang_after: int | None = None  # the whole engine stops in the step after so many tokens
    faulty_jobs: int | None = None  # only so many jobs fail or hang, the first ones; None: all


@dataclass(slots=True, eq=False)
class ScriptedRow:
    answer: Answer
    key: bytes
    prefilled: int
    faulty: bool
    made_here: int = 0


class WordDecoder:
    """Every token is a whole word."""

    pending = False

    def feed(self, token_id: int) -> str:
        return WORDS[token_id]

    def flush(self) -> str:
        return ""


def word_id(key: bytes, index: int) -> int:
    return hashlib.blake2b(index.to_bytes(8, "big"), key=key, digest_size=1).digest()[0]


def script_key(prompt_ids: Sequence[int], seed: int) -> bytes:
    return hashlib.blake2b(ids_digest(prompt_ids) + seed.to_bytes(8, "big"), digest_size=32).digest()


def _replayed(resume: Resume, key: bytes) -> tuple[tuple[int, ...], int]:
    """Ids of the resumed part and the length of their text. A text alone is a script's own, or is let be."""
    ids = resume.token_ids or tuple(word_id(key, index) for index in range(resume.from_index))
    text = "".join(WORDS[word] for word in ids)
    return (ids, len(resume.text)) if text.startswith(resume.text) else ((), 0)


def prompt_ids(prompt: Prompt) -> list[int]:
    match prompt:
        case RawPrompt(text):
            return list(text.encode())
        case ChatPrompt(messages):
            return list("".join(f"{role}: {content}\n" for role, content in messages).encode())
        case IdsPrompt(ids):
            return list(ids)
        case _:
            assert_never(prompt)


class ScriptedModel:
    """A SteppedModel over words."""

    def __init__(self, name: str, script: Script, max_concurrent: int) -> None:
        self._name = name
        self._script = script
        self._max_concurrent = max_concurrent
        self._next_s = 0.0
        self._jobs = 0
        self._interrupted = threading.Event()

    def open(self) -> EngineInfo:
        delay_ms = self._script.delay_ms
        return EngineInfo(
            model=self._name,
            model_digest=DIGEST,
            numerics_id=NUMERICS_ID,
            numerics_class=NumericsClass.EXACT,
            backend="scripted",
            device="none",
            dtype="none",
            quantisation="none",
            context=self._script.context,
            max_concurrent=self._max_concurrent,
            notes=("scripted words, no model: for tests and benches",),
            tokens_per_s=1000.0 / delay_ms if delay_ms else UNHURRIED_TOKENS_PER_S,
        )

    def read(self, job: EngineJob) -> ScriptedRow:
        check_config(job.config, VOCABULARY)
        if job.config.logit_bias:
            raise JobError(FailureCode.UNSUPPORTED, "the scripted engine has no logit_bias")
        ids = prompt_ids(job.prompt)
        if not ids:
            raise JobError(FailureCode.BAD_REQUEST, "the prompt is empty")
        check_ids(ids, VOCABULARY, "prompt")
        most = check_length(len(ids), job.config, self._script.context)
        resume = job.resume
        if resume is not None:
            check_resume(resume, VOCABULARY)
        key = script_key(ids, job.config.seed)
        replayed, chars = ((), 0) if resume is None else _replayed(resume, key)
        answer = Answer(job, len(ids), ids_digest(ids), WordDecoder(), most, replayed, chars)
        self._jobs += 1
        limit = self._script.faulty_jobs
        faulty = limit is None or self._jobs <= limit
        prefilled = 0 if self._script.prefill_chunk else len(ids)
        return ScriptedRow(answer, key, prefilled, faulty)

    def admit(self, row: ScriptedRow) -> bool:
        return True

    def ready_at_s(self) -> float:
        return self._next_s

    def step(self, rows: Sequence[ScriptedRow]) -> list[tuple[ScriptedRow, Outcome]]:
        period_s = self._script.delay_ms / 1000
        # Late wake-ups are caught up, but only one: idle time is no credit.
        self._next_s = max(self._next_s, time.monotonic() - period_s) + period_s
        chosen = rows[:1] if self._script.paced else rows
        return [(row, self._outcome(row)) for row in chosen]

    def _outcome(self, row: ScriptedRow) -> Outcome:
        script, answer = self._script, row.answer
        if row.faulty and row.made_here == script.hang_after:
            self._interrupted.wait()
        if row.faulty and (script.fail_before_first or row.made_here == script.fail_after):
            return JobError(FailureCode.ENGINE, "the script says that this step fails")
        if row.prefilled < answer.prompt_tokens:
            row.prefilled += script.prefill_chunk
            if row.prefilled < answer.prompt_tokens:
                return Prefilled(100 * row.prefilled // answer.prompt_tokens)
        config = answer.job.config
        if script.stop_after is not None and answer.made >= script.stop_after and not config.ignore_eos:
            return Ended()
        token_id = word_id(row.key, answer.made)
        row.made_here += 1
        if config.logprobs is None:
            return Sampled(token_id)
        others = ((token_id + step) % VOCABULARY for step in range(config.logprobs))
        top = tuple((WORDS[other], 0.0 if other == token_id else UNLIKELY) for other in others)
        return Sampled(token_id, TokenLogprob(0.0, top))

    def release(self, row: ScriptedRow) -> None:
        """Nothing is held."""

    def memory_free(self) -> int:
        return memory_available()

    def pool_use(self) -> PoolUse:
        return PoolUse()

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        """Nothing is open."""


class ScriptedEngine(SteppedEngine[ScriptedRow]):
    """An Engine without a model. Ready at once."""

    def __init__(
        self, script: Script | None = None, *, name: str = "scripted", max_concurrent: int = 8
    ) -> None:
        super().__init__(ScriptedModel(name, script or Script(), max_concurrent), name)


def parse_spec(spec: str) -> Script | None:
    """`scripted`, `scripted:key=value,…`, `paced:MS`; None for anything else. Raises UsageError."""
    name, _, rest = spec.partition(":")
    if name == "paced":
        return Script(delay_ms=_number(rest, spec), paced=True)
    if name != "scripted":
        return None
    kinds = {field.name: str(field.type) for field in fields(Script)}
    options: dict[str, float | int | bool] = {}
    for part in filter(None, rest.split(",")):
        key, _, text = part.partition("=")
        if key not in kinds:
            raise UsageError(f"the scripted engine has no option {key!r}", hint="one of " + ", ".join(kinds))
        if kinds[key] == "bool":
            options[key] = text in ("", "1", "true")
        else:
            value = _number(text, spec)
            options[key] = value if kinds[key] == "float" else int(value)
    return Script(**options)  # type: ignore[arg-type]


def _number(text: str, spec: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise UsageError(f"{text!r} in {spec!r} is no number", hint="as in paced:20 or scripted:delay_ms=20")
    return value
