"""Replay windows: nothing twice, nothing forgotten too early, strangers never crowd out known keys."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from llama_gossip.protocol.limits import (
    FORGET_SIGNER_MS,
    KNOWN_SIGNERS_RESERVE,
    MAX_AGE_MS,
    MAX_AHEAD_MS,
    MAX_NEIGHBOURS,
    MAX_SIGNERS,
    NEW_SIGNERS_PER_NEIGHBOUR,
    NEW_SIGNERS_PERIOD_MS,
    WINDOW_BITS,
)
from llama_gossip.protocol.messages import NodeId
from llama_gossip.protocol.replay import ReplayWindows, Verdict

NEIGHBOUR = NodeId(b"n" * 32)


def signer(i: int) -> NodeId:
    return NodeId(i.to_bytes(32, "big"))


def commit(
    windows: ReplayWindows,
    who: int,
    seq: int,
    *,
    boot: int = 1,
    at: int = 0,
    known: bool = False,
    via: NodeId | None = None,
) -> Verdict:
    neighbour = signer(10**6 + who) if via is None else via  # by default a neighbour of its own
    arguments = (signer(who), boot, seq)
    looked = windows.check(*arguments, neighbour=neighbour, known=known, mono_ms=at)
    committed = windows.commit(*arguments, neighbour=neighbour, known=known, mono_ms=at)
    assert looked is committed
    return committed


# --- one signer ----------------------------------------------------------------------------------


def test_a_number_is_accepted_once_in_any_order_within_the_window() -> None:
    windows = ReplayWindows()
    for seq in (5, 3, 9, 4, 0, 9 + WINDOW_BITS - 1):
        assert commit(windows, 1, seq) is Verdict.NEW
        assert commit(windows, 1, seq) is Verdict.SEEN
    assert commit(windows, 1, 3) is Verdict.BEHIND


def test_the_window_is_1024_numbers_wide_to_the_number() -> None:
    windows = ReplayWindows()
    top = 5000
    assert commit(windows, 1, top) is Verdict.NEW
    assert commit(windows, 1, top - WINDOW_BITS + 1) is Verdict.NEW
    assert commit(windows, 1, top - WINDOW_BITS) is Verdict.BEHIND
    assert commit(windows, 1, top - WINDOW_BITS + 1) is Verdict.SEEN
    assert commit(windows, 1, top + 1) is Verdict.NEW
    assert commit(windows, 1, top - WINDOW_BITS + 1) is Verdict.BEHIND


def test_a_leap_over_the_whole_window_forgets_only_what_is_behind() -> None:
    windows = ReplayWindows()
    for seq, verdict in ((1, Verdict.NEW), (2**64 - 1, Verdict.NEW), (1, Verdict.BEHIND)):
        assert commit(windows, 1, seq) is verdict
    assert commit(windows, 1, 2**64 - 1) is Verdict.SEEN
    assert commit(windows, 1, 2**64 - 2) is Verdict.NEW


def test_a_higher_boot_begins_anew_and_a_lower_one_is_gone() -> None:
    windows = ReplayWindows()
    assert commit(windows, 1, 700, boot=5) is Verdict.NEW
    assert commit(windows, 1, 1, boot=6) is Verdict.NEW
    assert commit(windows, 1, 701, boot=5) is Verdict.LOWER_BOOT
    assert commit(windows, 1, 1, boot=6) is Verdict.SEEN
    assert windows.boot_of(signer(1)) == 6
    assert windows.boot_of(signer(2)) is None


def test_looking_changes_nothing() -> None:
    windows = ReplayWindows()
    for _ in range(3):
        verdict = windows.check(signer(1), 1, 1, neighbour=NEIGHBOUR, known=False, mono_ms=0)
        assert verdict is Verdict.NEW
    assert len(windows) == 0


def test_a_window_is_forgotten_120_s_after_its_last_message_and_not_before() -> None:
    windows = ReplayWindows()
    commit(windows, 1, 7, boot=9, at=0)
    commit(windows, 1, 8, boot=9, at=1000)
    assert commit(windows, 1, 7, boot=9, at=1000 + FORGET_SIGNER_MS - 1) is Verdict.SEEN
    assert commit(windows, 1, 7, boot=8, at=1000 + FORGET_SIGNER_MS) is Verdict.NEW
    assert FORGET_SIGNER_MS > MAX_AGE_MS + MAX_AHEAD_MS  # what was forgotten fails on its ts


# --- the table -----------------------------------------------------------------------------------


def test_strangers_fill_three_quarters_of_the_table_and_known_keys_the_rest() -> None:
    windows = ReplayWindows()
    strangers = MAX_SIGNERS - KNOWN_SIGNERS_RESERVE
    for i in range(strangers):
        assert commit(windows, i, 1) is Verdict.NEW
    assert commit(windows, 9999, 1) is Verdict.TABLE_FULL
    for i in range(strangers, MAX_SIGNERS):
        assert commit(windows, i, 1, known=True) is Verdict.NEW
    assert commit(windows, 9999, 1, known=True) is Verdict.TABLE_FULL
    assert len(windows) == MAX_SIGNERS
    assert commit(windows, 0, 2) is Verdict.NEW  # those inside are still heard
    assert commit(windows, 0, 1) is Verdict.SEEN  # and nothing of them was forgotten


def test_a_full_table_takes_newcomers_again_when_old_entries_are_over() -> None:
    windows = ReplayWindows(max_signers=4, known_reserve=1)
    for i in range(3):
        commit(windows, i, 1, at=i * 1000)
    commit(windows, 0, 2, at=5000)  # 0 is now the youngest
    assert commit(windows, 7, 1, at=1000 + FORGET_SIGNER_MS - 1) is Verdict.TABLE_FULL
    assert commit(windows, 7, 1, at=1000 + FORGET_SIGNER_MS) is Verdict.NEW
    assert commit(windows, 8, 1, at=1000 + FORGET_SIGNER_MS) is Verdict.TABLE_FULL
    assert commit(windows, 0, 1, at=1000 + FORGET_SIGNER_MS) is Verdict.SEEN


def test_a_stranger_that_becomes_known_still_fills_the_strangers_part() -> None:
    windows = ReplayWindows(max_signers=4, known_reserve=2)
    for i in range(2):
        commit(windows, i, 1)
        commit(windows, i, 2, known=True)  # it announced itself into the roster
    assert commit(windows, 5, 1) is Verdict.TABLE_FULL
    assert commit(windows, 5, 1, known=True) is Verdict.NEW


def test_a_neighbour_brings_at_most_64_new_signers_a_minute() -> None:
    windows = ReplayWindows()
    for i in range(NEW_SIGNERS_PER_NEIGHBOUR):
        assert commit(windows, i, 1, via=NEIGHBOUR, at=i) is Verdict.NEW
    assert commit(windows, 500, 1, via=NEIGHBOUR, at=1000) is Verdict.NEIGHBOUR_QUOTA
    assert commit(windows, 0, 2, via=NEIGHBOUR, at=1000) is Verdict.NEW  # not a new signer
    assert commit(windows, 501, 1, via=NEIGHBOUR, at=1000, known=True) is Verdict.NEW
    assert commit(windows, 500, 1, via=signer(77), at=1000) is Verdict.NEW
    assert commit(windows, 502, 1, via=NEIGHBOUR, at=NEW_SIGNERS_PERIOD_MS) is Verdict.NEW
    assert commit(windows, 503, 1, via=NEIGHBOUR, at=NEW_SIGNERS_PERIOD_MS) is Verdict.NEIGHBOUR_QUOTA


def test_the_list_of_neighbours_is_bounded_too() -> None:
    windows = ReplayWindows()
    for i in range(MAX_NEIGHBOURS + 50):
        commit(windows, i, 1, via=signer(10**6 + i))
    assert len(windows._newcomers) == MAX_NEIGHBOURS


# --- against a plain set ---------------------------------------------------------------------------

SIGNERS, LIMIT, RESERVE = 6, 4, 1


class AgainstASet(RuleBasedStateMachine):
    """The windows against a model that remembers everything in a set."""

    def __init__(self) -> None:
        super().__init__()
        self.windows = ReplayWindows(max_signers=LIMIT, known_reserve=RESERVE)
        self.now = 0
        self.accepted: dict[int, set[tuple[int, int]]] = {}
        self.last: dict[int, int] = {}
        self.known: dict[int, bool] = {}

    @rule(ms=st.sampled_from([1, 999, 30_000, 60_000, FORGET_SIGNER_MS - 1, FORGET_SIGNER_MS]))
    def time_passes(self, ms: int) -> None:
        self.now += ms
        for who in [who for who, last in self.last.items() if self.now - last >= FORGET_SIGNER_MS]:
            del self.accepted[who], self.last[who], self.known[who]

    @rule(
        who=st.integers(0, SIGNERS - 1),
        boot=st.integers(1, 3),
        seq=st.integers(0, 40)
        | st.integers(WINDOW_BITS - 3, WINDOW_BITS + 43)
        | st.integers(10 * WINDOW_BITS, 10 * WINDOW_BITS + 5),
        known=st.booleans(),
    )
    def a_message_comes(self, who: int, boot: int, seq: int, known: bool) -> None:
        expected = self.expected(who, boot, seq, known)
        assert commit(self.windows, who, seq, boot=boot, known=known, at=self.now) is expected
        if expected is Verdict.NEW:
            self.accepted.setdefault(who, set()).add((boot, seq))
            self.known.setdefault(who, known)
            self.last[who] = self.now

    def expected(self, who: int, boot: int, seq: int, known: bool) -> Verdict:
        mine = self.accepted.get(who)
        if mine is None:
            strangers = sum(not known for known in self.known.values())
            full = len(self.accepted) >= LIMIT or (not known and strangers >= LIMIT - RESERVE)
            return Verdict.TABLE_FULL if full else Verdict.NEW
        highest_boot, highest_seq = max(mine)
        if boot != highest_boot:
            return Verdict.NEW if boot > highest_boot else Verdict.LOWER_BOOT
        if seq <= highest_seq - WINDOW_BITS:
            return Verdict.BEHIND
        return Verdict.SEEN if (boot, seq) in mine else Verdict.NEW

    @invariant()
    def it_knows_exactly_the_living_signers(self) -> None:
        self.windows._forget(self.now)
        assert len(self.windows) == len(self.accepted) <= LIMIT


TestAgainstASet = AgainstASet.TestCase
TestAgainstASet.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
