"""The ledger is bounded: what is least worth keeping goes, and nothing that is in use."""

from __future__ import annotations

from llama_gossip.protocol.ledger import MAX_RECORDS, Ledger
from llama_gossip.protocol.messages import NodeId
from llama_gossip.protocol.timers import Timers


def node(number: int) -> NodeId:
    return NodeId(number.to_bytes(32, "big"))


def test_a_full_ledger_keeps_those_in_use_those_that_did_well_and_those_that_must_wait() -> None:
    ledger = Ledger(timers=Timers())
    for number in range(MAX_RECORDS):
        ledger.record(node(number))
    ledger.start(node(0))
    ledger.success(node(1), 10.0, 2)
    ledger.fault(node(2), 1_000)
    ledger.dial(node(3))
    for number in range(MAX_RECORDS, MAX_RECORDS + 50):
        ledger.first_token(node(number), 100.0)
    assert len(ledger._records) == MAX_RECORDS
    assert ledger.peek(node(0)).in_flight == 1
    assert ledger.peek(node(1)).completed == 1
    assert ledger.peek(node(2)).faults == 1
    assert ledger.peek(node(3)).dialling == 1


def test_looking_makes_no_entry() -> None:
    ledger = Ledger(timers=Timers())
    assert ledger.peek(node(1)).completed == 0
    ledger.announced(node(1), 5)
    assert len(ledger._records) == 0
