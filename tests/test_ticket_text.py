"""Tickets in this package's own words: what goes in comes out, and every defect has its remedy."""

from __future__ import annotations

import pytest

from llama_gossip import _native
from llama_gossip.errors import TicketError
from llama_gossip.protocol.messages import NodeId
from llama_gossip.transport import Ticket, decode_ticket, encode_ticket

PEER = (NodeId(_native.public_key(bytes(32))), ("127.0.0.1:4242",))
LINE = encode_ticket(Ticket(bytes(32), (PEER,), "home"))


def test_a_ticket_brings_back_what_went_into_it_and_shows_no_secret() -> None:
    secret = b"\x5a" * 32
    ticket = decode_ticket(f"  {encode_ticket(Ticket(secret, (PEER,), 'home'))}\n")
    assert ticket == Ticket(secret, (PEER,), "home")
    assert "5a" not in repr(ticket)
    assert "Z" * 32 not in repr(ticket)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (LINE[:-9], "truncated"),
        (LINE[:20] + ("a" if LINE[20] != "a" else "b") + LINE[21:], "checksum"),
        ("endpointabcdef", "wrong_kind"),
        ("lg2" + LINE[3:], "newer_version"),
        (LINE[:20] + "!" + LINE[21:], "malformed"),
    ],
)
def test_each_defect_of_a_ticket_has_its_code_and_its_remedy(text: str, code: str) -> None:
    with pytest.raises(TicketError) as caught:
        decode_ticket(text)
    assert caught.value.code == f"ticket_{code}"
    assert caught.value.hint


def test_what_fits_no_ticket_is_a_ticket_error() -> None:
    with pytest.raises(TicketError, match="no ticket can be made"):
        encode_ticket(Ticket(bytes(32), (), "x" * 41))
