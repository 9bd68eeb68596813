"""Tokenizers built from GGUF give the ids that llama.cpp gives."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from llama_gossip.engine.gguf_reader import GgufFile, Value
from llama_gossip.engine.gguf_tokenizer import build_tokenizer
from llama_gossip.engine.models import ModelFolder
from llama_gossip.errors import ModelUnavailable
from tests.support.gguf_files import Vocabulary, byte_level, random_weights, sentencepiece, write_gguf
from tests.support.llamacpp import llamacpp

SEED = 7
TEXTS = [
    "a", " ", "  ", "\n", "\n\n\n", "\t", " \n ", "Hello", " Hello", "Hello world", "Hello  world",
    "hello   the", "The quick brown fox jumps over the lazy dog.",
    "I'm you're we'll they've it's he'd don't", "I'M YOU'RE", "1", "12", "123", "1234567890", "3.14159",
    "1,000,000", "a1b2c3", "x=42;", "2026-11-24T18:40:16Z", "½ ² ٣ १२", "def f(x):\n    return x ** 2\n",
    "for (int i = 0; i < 10; ++i) {\n\tsum += a[i];\n}", "{\"a\": [1, 2, {}]}",
    "<html><body>&nbsp;</body></html>", "https://example.org/a?b=c&d=e#f", "user@example.org",
    "C:\\dir\\file.txt", "naïve café résumé", "Straße Ärger Öl Übung", "Ελληνικά κείμενα", "Привет, мир!",
    "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया", "สวัสดีชาวโลก", "你好，世界", "こんにちは世界",
    "안녕하세요 세계", "🙂", "👩\u200d🚀", "🇫🇷🇩🇪", "👍🏽 ok", "e\u0301", "\u00a0nbsp",
    "zero\u200bwidth", "soft\u00adhyphen", "\u202eright to left", "tab\tand\rreturn\r\nline", "...",
    "!?!?", "—–-", "“quotes” ‘single’", "$100 €50 £20", "50% off", "#hashtag @name",
    "snake_case camelCase kebab-case", "ALL CAPS", "MiXeD", "a" * 200, "ab " * 60, " " * 33, "\n \n \n",
    "trailing   ", "   leading", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>", "<|im_start", "x<|endoftext|>y", "<s>hello</s>", "<unk>", "<0x41>",
    "<|begin|>the<|end|>", "<|mark|>12<|mark|>", "hello<|mark|>  hello",
]  # fmt: skip


def random_texts(count: int) -> list[str]:
    rng = random.Random(SEED)
    pools = ["abcdefghij ", "etaoin shrdlu 0123456789", "\n\t  ab1.", "é世😀🙂a 1'’s", "hello the in er 12"]
    return ["".join(rng.choices(rng.choice(pools), k=rng.randint(1, 40))) for _ in range(count)]


def differences(ours: Tokenizer, gguf: Path, texts: list[str]) -> list[tuple[str, list[int], list[int]]]:
    found = []
    with llamacpp(gguf) as judge:
        for text in texts:
            mine, theirs = ours.encode(text, add_special_tokens=False).ids, judge.tokens(text)
            if mine != theirs:
                found.append((text, mine, theirs))
    return found


def test_the_real_models_ids_equal_those_of_llamacpp_on_more_than_two_hundred_texts(
    smollm2: ModelFolder,
) -> None:
    ours = build_tokenizer(GgufFile(smollm2.source).metadata)
    assert ours.to_str() == (smollm2.path / "tokenizer.json").read_text(), "the converted copy is the same"
    texts = TEXTS + random_texts(150)
    assert len(texts) >= 200
    assert differences(ours, smollm2.source, texts) == [], f"seed {SEED}"


@pytest.mark.parametrize(
    "vocabulary",
    [
        pytest.param(byte_level("gpt-2"), id="gpt-2"),
        pytest.param(byte_level("smollm"), id="smollm"),
        pytest.param(byte_level("llama-bpe"), id="llama-3"),
        pytest.param(sentencepiece(), id="sentencepiece"),
    ],
)
def test_every_kind_of_vocabulary_that_is_read_splits_as_llamacpp_does(
    vocabulary: Vocabulary, tmp_path: Path
) -> None:
    gguf = write_gguf(tmp_path / "v.gguf", random_weights(len(vocabulary.tokens), SEED), vocabulary)
    ours = build_tokenizer(GgufFile(gguf).metadata)
    assert differences(ours, gguf, TEXTS + random_texts(150)) == []


@pytest.mark.parametrize(
    "vocabulary", [byte_level("llama-bpe"), sentencepiece()], ids=["byte-level", "sentencepiece"]
)
def test_decoding_gives_the_text_back(vocabulary: Vocabulary, tmp_path: Path) -> None:
    gguf = write_gguf(tmp_path / "v.gguf", random_weights(len(vocabulary.tokens), SEED), vocabulary)
    ours = build_tokenizer(GgufFile(gguf).metadata)
    for text in random_texts(40):
        assert ours.decode(ours.encode(text, add_special_tokens=False).ids) == text


def test_a_splitting_rule_that_is_not_known_is_refused_by_name() -> None:
    vocabulary = byte_level("martian")
    metadata: dict[str, Value] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "martian",
        "tokenizer.ggml.tokens": vocabulary.tokens,
        "tokenizer.ggml.merges": vocabulary.merges,
        "tokenizer.ggml.token_type": vocabulary.kinds,
    }
    with pytest.raises(ModelUnavailable, match="martian"):
        build_tokenizer(metadata)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tokenizer.ggml.tokens": []}, "no vocabulary"),
        ({"tokenizer.ggml.tokens": ["a", "a"]}, "twice"),
        ({"tokenizer.ggml.tokens": [1, 2]}, "no list of texts"),
        ({"tokenizer.ggml.model": "bert"}, "bert"),
        ({"tokenizer.ggml.merges": ["nospace"]}, "no merge"),
        ({"tokenizer.ggml.merges": ["q zz"]}, "do not fit"),
        ({"tokenizer.ggml.token_type": [1]}, "token types"),
        ({"tokenizer.ggml.model": "llama"}, "no scores"),
    ],
)
def test_a_broken_vocabulary_is_one_sentence(change: dict[str, Value], says: str) -> None:
    vocabulary = byte_level("smollm")
    metadata: dict[str, Value] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": vocabulary.tokens,
        "tokenizer.ggml.merges": vocabulary.merges,
        "tokenizer.ggml.token_type": vocabulary.kinds,
    }
    with pytest.raises(ModelUnavailable, match=says):
        build_tokenizer({**metadata, **change})
