"""Streaming text: joined it is the full decode, whatever the cuts, and nothing has to be taken back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from llama_gossip.engine.detokenize import (
    ByteDecoder,
    Decoder,
    Settled,
    TextStream,
    TokenBytes,
    WindowDecoder,
    decode,
)

SAMPLE = [
    "the quick brown fox jumps over the lazy dog",
    "Zürich, naïve café, œuvre",
    "東京都に行きました。你好世界",
    "👩‍💻 and 🏳️‍🌈 and 👍🏽 and 🇨🇭",
    "  two  spaces\n\tand a tab",
]
CHARS = "ab eé東京👩\u200d💻🇨🇭👍🏽 \n.,'"
TEXTS = st.text(alphabet=CHARS, max_size=40)


@cache
def byte_level() -> Tokenizer:
    """As Llama 3, SmolLM, GPT-2: half characters are ordinary tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(SAMPLE, trainer)
    made.add_special_tokens([AddedToken("<|end|>", special=True)])
    made.add_tokens(["<tool>"])
    return made


@cache
def byte_fallback() -> Tokenizer:
    """As Llama 2 and TinyLlama: pieces with a mark for spaces, unknown characters as bytes."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"\u2581abe.,é", "\u2581a"]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    made = Tokenizer(
        models.BPE(vocabulary, [("\u2581", "a")], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens([AddedToken(text, special=True) for text in ("<unk>", "<s>", "</s>")])
    return made


@cache
def word_piece() -> Tokenizer:
    """A decoder that is no join of bytes: it sets spaces between words."""
    pieces = ["[UNK]", "the", "fox", "##es", "東", "##京", "."]
    made = Tokenizer(models.WordPiece({p: n for n, p in enumerate(pieces)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.WordPiece(cleanup=False)
    return made


@cache
def table(name: str) -> TokenBytes:
    return TokenBytes({"level": byte_level, "fallback": byte_fallback, "words": word_piece}[name]())


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def id_of(token: str) -> int:
    token_id = byte_level().token_to_id(token)
    assert token_id is not None
    return token_id


def streamed(decoder: Decoder, ids: Sequence[int], stop: tuple[str, ...] = ()) -> list[Settled[None]]:
    stream: TextStream[None] = TextStream(decoder, stop)
    out = []
    for token_id in ids:
        out += stream.push(token_id)
        if stream.stopped:
            return out
    return out + stream.finish()


def test_the_usual_tokenizers_join_bytes_and_others_use_a_window() -> None:
    assert isinstance(table("level").decoder(), ByteDecoder)
    assert isinstance(table("fallback").decoder(), ByteDecoder)
    assert isinstance(table("words").decoder(), WindowDecoder)


@pytest.mark.parametrize("name", ["level", "fallback"])
@given(text=TEXTS)
def test_our_decoding_of_a_text_is_the_tokenizers(name: str, text: str) -> None:
    tokenizer = {"level": byte_level, "fallback": byte_fallback}[name]()
    ids = ids_of(tokenizer, text)
    assert decode(table(name).decoder(), ids) == tokenizer.decode(ids, skip_special_tokens=True)


@given(data=st.data())
def test_malformed_bytes_decode_as_the_tokenizer_does(data: st.DataObject) -> None:
    """Random ordinary tokens: half characters anywhere, each malformed sequence replaced in the same way."""
    ordinary = byte_level().get_vocab_size(with_added_tokens=False)
    ids = data.draw(st.lists(st.integers(0, ordinary - 1), max_size=40))
    assert decode(table("level").decoder(), ids) == byte_level().decode(ids, skip_special_tokens=True)


def test_special_tokens_have_no_text_and_added_ones_have_theirs() -> None:
    end, tool = id_of("<|end|>"), id_of("<tool>")
    assert decode(table("level").decoder(), [end, tool, end]) == "<tool>"
    assert table("level").text(end) == ""
    assert table("level")[10_000] is None


@pytest.mark.parametrize("name", ["level", "fallback", "words"])
@given(data=st.data())
def test_the_stream_joins_to_the_full_decode_with_one_text_a_token(name: str, data: st.DataObject) -> None:
    size = {"level": 420, "fallback": 267, "words": 7}[name]
    ids = data.draw(st.lists(st.integers(0, size - 1), max_size=40))
    settled = streamed(table(name).decoder(), ids)
    assert [token.token_id for token in settled] == ids
    assert "".join(token.text for token in settled) == decode(table(name).decoder(), ids)


@pytest.mark.parametrize("name", ["level", "fallback", "words"])
@settings(deadline=None)
@given(data=st.data())
def test_any_cut_continues_to_the_same_texts(name: str, data: st.DataObject) -> None:
    """Cut where a token was delivered, replay, go on: the same tokens with the same texts follow."""
    tokenizer = {"level": byte_level, "fallback": byte_fallback, "words": word_piece}[name]()
    random_ids = st.lists(st.integers(0, tokenizer.get_vocab_size() - 1), max_size=30)
    ids = data.draw(st.one_of(TEXTS.map(lambda text: ids_of(tokenizer, text)), random_ids))
    stop = data.draw(st.sampled_from([(), ("東京",), ("aé", " a"), ("\ufffd",), ("b" * 5, "e.")]))
    whole = streamed(table(name).decoder(), ids, stop)
    for count in range(len(whole) + 1):
        delivered = "".join(token.text for token in whole[:count])
        stream: TextStream[None] = TextStream(table(name).decoder(), stop, len(delivered))
        stream.replay(token.token_id for token in whole[:count])
        rest: list[Settled[None]] = []
        for token_id in ids[count:]:
            if stream.stopped:
                break
            rest += stream.push(token_id)
        if not stream.stopped:
            rest += stream.finish()
        assert [token.token_id for token in rest] == [token.token_id for token in whole[count:]]
        assert delivered + "".join(t.text for t in rest) == "".join(t.text for t in whole)


@given(text=TEXTS, stop=st.lists(st.text(alphabet=CHARS, min_size=1, max_size=4), min_size=1, max_size=3))
def test_no_stop_string_and_nothing_behind_it_is_ever_shown(text: str, stop: list[str]) -> None:
    ids = ids_of(byte_level(), text)
    shown = "".join(token.text for token in streamed(table("level").decoder(), ids, tuple(stop)))
    assert text.startswith(shown)
    assert not any(word in shown for word in stop)
    if not any(word in text for word in stop):
        assert shown == text


def test_a_possible_stop_string_holds_its_tokens_back_and_lets_them_go() -> None:
    stream: TextStream[None] = TextStream(table("level").decoder(), ("abba",))
    ids = [id_of(char) for char in "xabbc"]
    sizes = [len(stream.push(token_id)) for token_id in ids]
    assert sizes == [1, 0, 0, 0, 4]
    assert stream.finish() == []


def test_a_half_character_holds_its_tokens_back_until_it_is_whole() -> None:
    stream: TextStream[None] = TextStream(table("fallback").decoder())
    ids = [3 + byte for byte in "東".encode()]
    assert [len(stream.push(token_id)) for token_id in ids] == [0, 0, 3]
    assert [token.text for token in stream.push(3 + 0xE6)] == []
    assert [token.text for token in stream.finish()] == ["\ufffd"]


def test_endless_special_tokens_do_not_hold_a_half_character_for_ever() -> None:
    stream: TextStream[None] = TextStream(table("fallback").decoder())
    assert stream.push(3 + 0xE6) == []
    assert [token.text for token in stream.push(2)] == ["", "\ufffd"]


def test_text_that_an_earlier_attempt_kept_back_comes_with_the_next_token() -> None:
    ids = ids_of(byte_level(), "the fox")
    stream: TextStream[None] = TextStream(table("level").decoder(), (), 2)
    stream.replay(ids[:-1])
    (last,) = stream.push(ids[-1])
    assert "th" + last.text == "the fox"
