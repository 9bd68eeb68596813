"""The journal: rows and words made of news, bounded."""

from __future__ import annotations

from llama_gossip import news
from llama_gossip.gateway.journal import MAX_LINES, MAX_REQUESTS, Journal

OWN, PEER, OTHER = "aa" * 32, "bb" * 32, "dd" * 32


def journal() -> Journal:
    return Journal(OWN, "gateway", wall_ms=lambda: 1_000_000)


def up(node_id: str = PEER, name: str = "worker-1", models: tuple[str, ...] = ("tiny",)) -> news.PeerUp:
    return news.PeerUp(node_id, name, "worker", "ready", models)


def answered(request_id: str, **changes: object) -> news.RequestAnswered:
    facts: dict[str, object] = {
        "request_id": request_id,
        "model": "tiny",
        "worker": PEER,
        "outcome": "stop",
        "tokens": 50,
        "prompt_tokens": 3,
        "first_token_ms": 12.34,
        "total_ms": 1200.0,
        "attempts": 1,
        "failovers": 0,
        "delivery": "direct",
    }
    return news.RequestAnswered(**{**facts, **changes})  # type: ignore[arg-type]


def texts(one: Journal) -> list[str]:
    return [line.text for line in one.lines]


def test_peers_come_and_go_by_name() -> None:
    one = journal()
    one.hear(up())
    one.hear(news.PeerUp("cc" * 32, "laptop", "client", "client", ()))
    one.hear(news.PeerDown(PEER, "left: shutdown"))
    assert texts(one) == [
        "worker-1 is ready and serves tiny",
        "laptop has joined",
        "worker-1 is gone: left: shutdown",
    ]
    assert [line.kind for line in one.lines] == ["peer_up", "peer_up", "peer_down"]


def test_a_peer_that_was_there_before_has_its_name_too() -> None:
    one = journal()
    one.know(PEER, "\x1bearly")
    one.hear(answered("01"))
    assert one.asked["01"].worker_name == "early"
    one.know(OWN, "a thief of names")
    assert one.name_of(OWN) == "gateway"


def test_a_request_is_under_way_until_it_is_answered() -> None:
    one = journal()
    one.hear(up())
    one.hear(news.RequestAsked("01", ""))
    assert (one.asked["01"].outcome, one.under_way, one.asked_total) == ("", 1, 1)
    one.hear(answered("01"))
    row = one.asked["01"]
    assert (row.outcome, row.worker_name, row.tokens, row.first_token_ms) == ("stop", "worker-1", 50, 12.3)
    assert (row.model, row.asked_ms) == ("tiny", 1_000_000)
    assert (one.under_way, one.asked_total) == (0, 1)
    assert texts(one)[-1] == "answered by worker-1: 50 tokens in 1.2\u00a0s (stop)"


def test_a_failure_and_a_cancelling_are_told_apart() -> None:
    one = journal()
    one.hear(answered("02", outcome="no_workers", worker="", tokens=0, first_token_ms=None))
    one.hear(answered("03", outcome="cancelled"))
    assert [line.kind for line in one.lines] == ["failed", "cancelled"]
    assert texts(one)[0] == "a request failed (no_workers): 0 tokens in 1.2\u00a0s"


def test_the_worker_of_a_running_request_is_told_and_a_failover_when_it_happens() -> None:
    one = journal()
    one.hear(up())
    one.hear(news.RequestAsked("01", "tiny"))
    one.hear(news.RequestTaken("01", PEER, 1))
    assert (one.asked["01"].worker, one.asked["01"].worker_name) == (PEER, "worker-1")
    one.hear(news.RequestFailedOver("01", 2, PEER, OTHER, 17, "lost\n"))
    assert (one.asked["01"].worker, one.asked["01"].failovers, one.failovers) == (OTHER, 1, 1)
    assert one.lines[-1].kind == "failover"
    assert texts(one)[-1] == f"{OTHER[:10]} continues at token 17 for worker-1: lost"
    one.hear(answered("01", worker=OTHER, failovers=1, attempts=2))
    assert (one.asked["01"].failovers, one.failovers) == (1, 1)
    one.hear(news.RequestTaken("gone", PEER, 1))  # a row that fell out
    assert "gone" not in one.asked


def test_what_this_node_serves_is_told_with_its_requester() -> None:
    one = journal()
    one.hear(up())
    one.hear(news.RequestAccepted("01", PEER, "tiny"))
    assert (one.served["01"].requester_name, one.served["01"].reason) == ("worker-1", "")
    one.hear(news.RequestEnded("01", PEER, 7, "done"))
    assert (one.served["01"].tokens, one.served["01"].reason) == (7, "done")
    one.hear(news.RequestAccepted("02", OWN, "tiny"))
    assert one.served["02"].requester_name == "gateway"


def test_nothing_grows_without_end() -> None:
    one = journal()
    for number in range(5_000):
        one.hear(up(f"{number:064x}", f"w{number}"))
        one.hear(news.RequestAsked(f"{number:032x}", "tiny"))
        one.hear(news.RequestAccepted(f"{number:032x}", PEER, "tiny"))
    assert (len(one.asked), len(one.served), len(one.lines)) == (MAX_REQUESTS, MAX_REQUESTS, MAX_LINES)
    assert next(iter(one.asked)) == f"{5_000 - MAX_REQUESTS:032x}"
    assert one.name_of(f"{0:064x}") == "0" * 10
    assert one.name_of(OWN) == "gateway"


def test_the_end_of_a_request_that_fell_out_is_still_told() -> None:
    one = journal()
    for number in range(MAX_REQUESTS + 1):
        one.hear(news.RequestAsked(f"{number:02}", "tiny"))
    one.hear(answered("00"))
    assert (one.asked["00"].outcome, one.asked["00"].asked_ms) == ("stop", 1_000_000 - 1_200)
    assert one.under_way == MAX_REQUESTS


def test_hostile_words_are_cleaned() -> None:
    one = journal()
    one.hear(up(name="\x1b[2J\u202ewor", models=("ti\nny",)))
    one.hear(news.PeerDown(PEER, "\x07bye\r\n"))
    one.hear(news.RequestAsked("01", "x\u2066"))
    assert texts(one) == ["[2Jwor is ready and serves tiny", "[2Jwor is gone: bye"]
    assert one.asked["01"].model == "x"
