"""The chat as one text: what our sandbox renders of a GGUF file's template is what llama.cpp renders."""

from __future__ import annotations

import random

from llama_gossip.engine.detokenize import TokenBytes
from llama_gossip.engine.llama_load import load_llama
from llama_gossip.engine.models import ModelFolder
from llama_gossip.engine.prompt import PromptReader
from tests.engine.models.test_gguf_tokenizer import TEXTS, random_texts
from tests.support.llamacpp import llamacpp

SEED = 11
CHATS = 200
Messages = tuple[tuple[str, str], ...]


def chats(texts: list[str]) -> list[Messages]:
    """One to five turns, some behind a system message."""
    chance = random.Random(SEED)
    found: list[Messages] = []
    for number in range(CHATS):
        turns = ["user", "assistant"] * chance.randrange(0, 3) + ["user"]
        roles = (["system"] if number % 3 == 0 else []) + turns
        first = texts[number % len(texts)]
        found.append(tuple((role, chance.choice(texts) if at else first) for at, role in enumerate(roles)))
    return found


def reader_of(model: ModelFolder) -> PromptReader:
    checkpoint = load_llama(str(model.source))
    return PromptReader(
        tokenizer=checkpoint.tokenizer,
        table=TokenBytes(checkpoint.tokenizer),
        chat_template=checkpoint.chat_template,
        bos_id=checkpoint.bos_id,
        add_bos=checkpoint.add_bos,
        vocabulary=49_152,
        context=checkpoint.context,
        specials={"bos_token": checkpoint.bos_token, "eos_token": checkpoint.eos_token},
    )


def test_two_hundred_chats_of_the_real_model_are_rendered_as_llamacpp_does(smollm2: ModelFolder) -> None:
    reader = reader_of(smollm2)
    with llamacpp(smollm2.source) as judge:
        for messages in chats(TEXTS + random_texts(60)):
            theirs = judge.rendered([{"role": role, "content": text} for role, text in messages])
            assert reader.render(messages, "2026-11-28") == theirs, f"seed {SEED}: {messages}"
