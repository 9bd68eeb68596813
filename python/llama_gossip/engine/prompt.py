"""Prompts: from what a request carries to the ids that are fed, and the resumed part in this vocabulary.

The law: the same prompt and date give the same ids on every worker of the same model. BOS stands at the start
at most once. Templates run in jinja2's sandbox and see the request's date, never this machine's.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn, assert_never

from llama_gossip.engine.base import EngineJob, FailureCode
from llama_gossip.engine.detokenize import Decoder, TokenBytes, decode
from llama_gossip.engine.jobs import (
    Answer,
    JobError,
    agrees,
    bad_request,
    check_config,
    check_ids,
    check_length,
    check_resume,
    ids_digest,
)
from llama_gossip.protocol.messages import ChatPrompt, IdsPrompt, Prompt, RawPrompt, Resume

if TYPE_CHECKING:
    from jinja2 import Template
    from tokenizers import Tokenizer

CHARS_PER_TOKEN: Final = 64  # no text of more characters a context token is tokenised: it cannot fit
TEMPLATE_ERROR_CHARS: Final = 120  # of a template's own words in an error


class TemplateRefused(Exception):
    """The template called raise_exception."""


@dataclass(frozen=True, slots=True)
class PromptReader:
    """Everything of a model that turns prompts into ids. Used from one thread."""

    tokenizer: Tokenizer
    table: TokenBytes
    chat_template: str | None
    bos_id: int | None
    add_bos: bool
    vocabulary: int  # ids that the model can embed
    context: int
    specials: Mapping[str, str] = field(
        default_factory=dict
    )  # bos_token, eos_token, as templates expect them

    def read(self, job: EngineJob) -> tuple[list[int], Answer]:
        """The prompt's ids and the answer so far. Raises JobError."""
        check_config(job.config, self.vocabulary)
        ids = self._prompt_ids(job.prompt, job.date)
        if not ids:
            raise bad_request("the prompt is empty")
        check_ids(ids, self.vocabulary, "prompt")
        replayed, chars = self._replayed(job.resume)
        resumed = job.resume.from_index if job.resume is not None else 0
        most = check_length(len(ids) + max(0, len(replayed) - resumed), job.config, self.context)
        answer = Answer(job, len(ids), ids_digest(ids), self.table.decoder(), most, replayed, chars)
        return ids, answer

    def _prompt_ids(self, prompt: Prompt, date: str) -> list[int]:
        match prompt:
            case IdsPrompt(given):
                return list(given)
            case RawPrompt(text):
                ids = self._encode(text)
                if self.add_bos and self.bos_id is not None and ids[:1] != [self.bos_id]:
                    ids.insert(0, self.bos_id)
                return ids
            case ChatPrompt(messages):
                return self._encode(self.render(messages, date))
            case _:
                assert_never(prompt)

    def render(self, messages: tuple[tuple[str, str], ...], date: str) -> str:
        """The chat as one text, with the answer's beginning opened."""
        if self.chat_template is None:
            raise JobError(FailureCode.UNSUPPORTED, "this model has no chat template: send a raw prompt")
        today = _day(date)
        try:
            return compiled(self.chat_template).render(
                messages=[{"role": role, "content": content} for role, content in messages],
                add_generation_prompt=True,
                strftime_now=today.strftime,
                **self.specials,
            )
        except Exception as error:  # a template may raise anything; it must not end the engine
            said = str(error)[:TEMPLATE_ERROR_CHARS]
            raise bad_request(f"the model's chat template refused these messages: {said}") from error

    def _encode(self, text: str) -> list[int]:
        if len(text) > CHARS_PER_TOKEN * self.context:
            raise JobError(
                FailureCode.TOO_LONG, f"the prompt cannot fit the context of {self.context} tokens"
            )
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _replayed(self, resume: Resume | None) -> tuple[tuple[int, ...], int]:
        """Ids of the resumed part and the length of their text. Ids of another vocabulary are made anew."""
        if resume is None:
            return (), 0
        check_resume(resume, self.vocabulary)
        if not resume.token_ids and not resume.text:
            return (), 0
        if agrees(self.table.decoder(), resume):
            return resume.token_ids, len(resume.text)
        ids = tuple(self._encode(resume.text))
        decoder: Decoder = self.table.decoder()
        return ids, len(decode(decoder, ids))


def _day(date: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(date)
    except ValueError as error:
        raise bad_request(f"the date {date[:32]!r} is not YYYY-MM-DD") from error


def _refuse(message: str) -> NoReturn:
    raise TemplateRefused(message)


def _to_json(value: Any, indent: int | None = None) -> str:
    """As templates expect it: unlike jinja2's own filter it escapes nothing for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


@functools.lru_cache(maxsize=8)  # one a model, and compiling takes milliseconds
def compiled(source: str) -> Template:
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    return environment.from_string(source)
