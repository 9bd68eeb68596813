"""Prompts: ids, BOS, templates, and the resumed part in this model's vocabulary."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from llama_gossip.engine import tiny_random
from llama_gossip.engine.base import FailureCode
from llama_gossip.engine.detokenize import TokenBytes
from llama_gossip.engine.jobs import JobError
from llama_gossip.engine.prompt import PromptReader
from llama_gossip.protocol.messages import ChatPrompt, IdsPrompt, RawPrompt, Resume
from tests.engine.driving import DATE, job

BOS = tiny_random.BOS_ID
TALK = (("system", "Be brief."), ("user", "Hi"))
CHATML = tiny_random.CHAT_TEMPLATE


@pytest.fixture(scope="module")
def reader() -> PromptReader:
    tokenizer = tiny_random.tokenizer()
    return PromptReader(
        tokenizer=tokenizer,
        table=TokenBytes(tokenizer),
        chat_template=CHATML,
        bos_id=BOS,
        add_bos=True,
        vocabulary=tiny_random.VOCABULARY,
        context=512,
        specials={"bos_token": tiny_random.BOS, "eos_token": tiny_random.EOS},
    )


def read_ids(reader: PromptReader, *args: Any, **options: Any) -> list[int]:
    return reader.read(job(1, *args, **options))[0]


def code_of(reader: PromptReader, *args: Any, **options: Any) -> FailureCode:
    with pytest.raises(JobError) as caught:
        reader.read(job(1, *args, **options))
    assert len(caught.value.message) < 200
    return caught.value.code


def test_a_raw_prompt_gets_bos_once(reader: PromptReader) -> None:
    assert read_ids(reader, "ab") == [BOS, 97, 98]
    assert read_ids(reader, tiny_random.BOS + "ab") == [BOS, 97, 98]
    assert read_ids(replace(reader, add_bos=False), "ab") == [97, 98]


def test_special_tokens_in_a_raw_prompt_are_tokens(reader: PromptReader) -> None:
    assert read_ids(reader, f"a{tiny_random.EOS}b") == [BOS, 97, tiny_random.EOS_ID, 98]


def test_a_template_brings_its_own_bos_and_no_second_one(reader: PromptReader) -> None:
    with_bos = replace(reader, chat_template="{{ bos_token }}{{ messages[0].content }}")
    assert read_ids(with_bos, ChatPrompt((("user", "ab"),))) == [BOS, 97, 98]


def test_ids_are_fed_as_they_are_and_digested_as_u32_big_endian(reader: PromptReader) -> None:
    ids, answer = reader.read(job(1, IdsPrompt((5, 300 - 50, 7))))
    assert ids == [5, 250, 7]
    as_bytes = bytes([0, 0, 0, 5, 0, 0, 0, 250, 0, 0, 0, 7])
    assert answer.prompt_digest == hashlib.blake2b(as_bytes, digest_size=32).digest()


def test_a_chat_opens_the_answer(reader: PromptReader) -> None:
    text = reader.render(TALK, DATE)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_template_sees_the_requests_date_and_never_todays(reader: PromptReader) -> None:
    dated = replace(reader, chat_template="{{ strftime_now('%d %b %Y') }}")
    assert dated.render(TALK, "2026-11-24") == "24 Nov 2026"
    assert dated.render(TALK, "1999-01-02") == "02 Jan 1999"


def test_templates_can_use_what_real_ones_use(reader: PromptReader) -> None:
    loop = "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}"
    template = loop + "{{ m | tojson }}{% break %}{% endfor %}"
    assert replace(reader, chat_template=template).render(TALK, DATE) == '{"role": "user", "content": "Hi"}'


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{% for %}",
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ 1 / 0 }}",
    ],
)
def test_a_template_that_refuses_or_breaks_out_is_a_bad_request(reader: PromptReader, template: str) -> None:
    assert code_of(replace(reader, chat_template=template), ChatPrompt(TALK)) is FailureCode.BAD_REQUEST


def test_a_model_without_template_says_so(reader: PromptReader) -> None:
    assert code_of(replace(reader, chat_template=None), ChatPrompt(TALK)) is FailureCode.UNSUPPORTED


@pytest.mark.parametrize("date", ["", "24.11.2026", "2026-13-01"])
def test_a_date_that_is_none_is_a_bad_request(reader: PromptReader, date: str) -> None:
    with pytest.raises(JobError) as caught:
        reader.read(replace(job(1, ChatPrompt(TALK)), date=date))
    assert caught.value.code is FailureCode.BAD_REQUEST


def test_what_cannot_fit_is_too_long_before_it_is_tokenised(reader: PromptReader) -> None:
    assert code_of(reader, "x" * 500) is FailureCode.TOO_LONG
    assert code_of(reader, "x" * 10_000_000) is FailureCode.TOO_LONG
    assert read_ids(reader, "x" * 487, max_tokens=24) == [BOS, *[120] * 487]


def test_empty_prompts_are_refused(reader: PromptReader) -> None:
    bare = replace(reader, add_bos=False)
    assert code_of(bare, RawPrompt("")) is FailureCode.BAD_REQUEST
    assert code_of(bare, IdsPrompt(())) is FailureCode.BAD_REQUEST


def test_resumed_ids_of_this_vocabulary_are_kept(reader: PromptReader) -> None:
    _, answer = reader.read(job(1, resume=Resume(3, (97, 98, 99), "abc", None, None)))
    assert (answer.replayed, answer.replayed_chars, answer.made) == ((97, 98, 99), 3, 3)


def test_resumed_ids_of_another_vocabulary_are_made_anew_from_their_text(reader: PromptReader) -> None:
    _, answer = reader.read(job(1, resume=Resume(2, (7, 9), "abc", None, None)))
    assert (answer.replayed, answer.replayed_chars, answer.made) == ((97, 98, 99), 3, 2)
    tokens = answer.push(100)
    assert tokens is not None
    assert (tokens.index, tokens.token_ids, tokens.texts) == (2, (100,), ("d",))
