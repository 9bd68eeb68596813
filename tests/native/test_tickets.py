"""Tickets: what goes in comes out, and each defect has its name."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_gossip import _native as native

SECRET = bytes(range(32))
IDS = [native.public_key(bytes([number]) * 32) for number in range(1, 9)]

addresses = st.one_of(
    st.builds("{}:{}".format, st.ip_addresses(v=4), st.integers(0, 65535)),
    st.builds("[{}]:{}".format, st.ip_addresses(v=6), st.integers(0, 65535)),
)
peers = st.lists(st.tuples(st.sampled_from(IDS), st.lists(addresses, max_size=8)), max_size=8)
names = (
    st.text(max_size=40)
    .filter(lambda name: len(name.encode("utf-8", "replace")) <= 40)
    .filter(lambda name: not any(0xD800 <= ord(char) <= 0xDFFF for char in name))
)
TICKET = native.encode_ticket(SECRET, [(IDS[0], ["127.0.0.1:4433"])], "home")


def code_of(text: str) -> str:
    with pytest.raises(native.TicketError) as caught:
        native.decode_ticket(text)
    return caught.value.code


@given(st.binary(min_size=32, max_size=32), peers, names)
def test_a_ticket_round_trips(secret, peers, name):
    text = native.encode_ticket(secret, peers, name)
    assert text.startswith("lg1")
    assert text.isalnum()
    got_secret, got_peers, got_name = native.decode_ticket(f" \n{text}\t")
    assert (got_secret, got_name) == (secret, name)
    assert [(node, len(found)) for node, found in got_peers] == [(node, len(given)) for node, given in peers]
    # IPv6 text has several spellings; a second trip must be exact.
    assert native.encode_ticket(got_secret, got_peers, got_name) == text


def test_upper_case_is_read_too_as_a_qr_code_prefers_it():
    assert native.decode_ticket(TICKET.upper()) == native.decode_ticket(TICKET)


@pytest.mark.parametrize("length", range(1, len(TICKET)))
def test_a_ticket_cut_off_anywhere_is_called_truncated(length):
    assert code_of(TICKET[:length]) == "truncated"


@given(st.integers(10, len(TICKET) - 2), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_a_wrong_letter_is_called_a_checksum_error(position, letter):
    if TICKET[position] != letter:
        assert code_of(TICKET[:position] + letter + TICKET[position + 1 :]) == "checksum"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("lg2" + TICKET[3:], "newer_version"),
        ("endpointabc", "wrong_kind"),
        ("blobaaaa", "wrong_kind"),
        ("", "wrong_kind"),
        ("hello world", "wrong_kind"),
        (TICKET + "aaaaaaaa", "malformed"),
        (TICKET[:20] + "!" + TICKET[21:], "malformed"),
        (TICKET[:20] + "é" + TICKET[21:], "malformed"),
        ("lg1" + "a" * 100_000, "malformed"),
    ],
)
def test_each_defect_has_its_name(text, code):
    assert code_of(text) == code


@given(st.text())
def test_no_text_does_worse_than_a_ticket_error(text):
    with suppress(native.TicketError):
        native.decode_ticket("lg1" + text)


def test_what_python_calls_text_and_no_encoding_does_is_a_ticket_error_too():
    assert code_of(TICKET[:-1] + "\ud800") in ("malformed", "truncated")
    assert code_of("\udcff") == "wrong_kind"


def test_a_last_letter_with_stray_bits_is_a_checksum_error():
    alphabet = "abcdefghijklmnopqrstuvwxyz234567"
    others = [letter for letter in alphabet if letter != TICKET[-1]]
    assert {code_of(TICKET[:-1] + letter) for letter in others} == {"checksum"}


@pytest.mark.parametrize(
    "arguments",
    [
        (SECRET[:31], [], ""),
        (SECRET, [(IDS[0], [])] * 9, ""),
        (SECRET, [(IDS[0], ["127.0.0.1:1"] * 9)], ""),
        (SECRET, [(IDS[0], ["127.0.0.1"])], ""),
        (SECRET, [(b"short", [])], ""),
        (SECRET, [], "x" * 41),
    ],
)
def test_what_does_not_fit_a_ticket_is_a_config_error(arguments):
    with pytest.raises(native.ConfigError):
        native.encode_ticket(*arguments)
