"""Virtual time: what was set for one moment happens in the order it was set, also what that moment adds."""

from __future__ import annotations

from llama_gossip.simulation.clock import Clock


def test_ties_happen_in_the_order_they_were_set_and_earlier_moments_first() -> None:
    clock, told = Clock(), list[str]()
    clock.at(20, told.append, "first of 20")
    clock.after(10, told.append, "of 10")
    clock.at(20, told.append, "second of 20")
    clock.run_until(20)
    assert told == ["of 10", "first of 20", "second of 20"]
    assert (clock.now_ms, clock.events) == (20, 3)


def test_what_is_set_for_now_or_the_past_happens_now_behind_what_was_set_before() -> None:
    clock, told = Clock(), list[tuple[int, str]]()

    def tell(what: str) -> None:
        told.append((clock.now_ms, what))

    def add() -> None:
        clock.after(0, tell, "added for now")
        clock.at(1, tell, "added for the past")

    clock.at(5, add)
    clock.at(5, tell, "set before")
    clock.run_until(10)
    assert told == [(5, "set before"), (5, "added for now"), (5, "added for the past")]


def test_what_lies_behind_the_end_waits_for_the_next_run() -> None:
    clock, told = Clock(), list[int]()
    clock.at(11, lambda: told.append(clock.now_ms))
    clock.run_until(10)
    assert told == []
    clock.at(10, lambda: told.append(clock.now_ms))
    clock.run_until(12)
    assert told == [10, 11]
