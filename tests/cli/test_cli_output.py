"""What commands print: the exact fields of every event, clean terminals, one place for each kind of word."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llama_gossip import news
from llama_gossip.answer import Answer, Timings, Usage
from llama_gossip.cli import events
from llama_gossip.cli.asking import tell_answer
from llama_gossip.cli.output import Output, table
from llama_gossip.cli.peers import row_of
from llama_gossip.cli.staying import tell
from llama_gossip.peers import Peer
from llama_gossip.plain_text import clean, one_line

# the promise to programs, written down a second time on purpose
FIELDS = {
    "ready": "node_id name role ticket models device reach",
    "peer_up": "node_id name models",
    "peer_down": "node_id reason",
    "request": "request_id requester model",
    "request_end": "request_id tokens reason",
    "token": "request_id index token_id text",
    "failover": "request_id attempt from_worker to_worker index gap_ms class reason",
    "complete": "request_id text total_tokens finish_reason model model_digest worker attempts first_token_ms"
    " tokens_per_s delivery resume verified",
    "error": "code message hint exit_code",
    "shutdown": "reason",
    "dropped": "lines",
    "peer": "node_id name role state models device tokens_per_s queue_depth running max_concurrent"
    " last_seen_s addresses version path rtt_ms",
    "model": "name title state licence path default",
    "key": "name node_id path",
    "ticket": "ticket network peers",
}
NODE = "ab" * 32
REQUEST = "cd" * 16

ANSWER = Answer(
    request_id=REQUEST,
    seed=1,
    text="Paris",
    finish_reason="stop",
    usage=Usage(7, 2),
    model="tiny",
    model_digest=None,
    worker=NODE,
    attempts=1,
    delivery="direct",
    resume=None,
    verified=True,
    timings=Timings(12.5, 40.0, 33.3),
)
PEER = Peer(
    NODE,
    "w",
    "worker",
    "ready",
    ("tiny",),
    "cpu",
    9.5,
    0,
    1,
    8,
    1 << 30,
    0.5,
    ("127.0.0.1:1",),
    "0.1.0",
    "direct",
    0.4,
)


def printed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("kind", get_args(events.CliEvent), ids=lambda kind: str(kind.event))
def test_an_event_has_exactly_the_promised_fields_in_order(kind: type[events.CliEvent]) -> None:
    # Python has taken the word `class`
    assert [field.name.rstrip("_") for field in fields(kind)] == FIELDS[kind.event].split()


def test_every_promised_event_has_its_dataclass() -> None:
    assert {kind.event for kind in get_args(events.CliEvent)} == FIELDS.keys()


@settings(deadline=None)  # a busy machine is no failure
@example(text="\ud800 \u2028 \n")
@given(text=st.text(st.characters(exclude_categories=())))
def test_an_event_is_one_line_of_json_whatever_the_text(text: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        Output("json").event(events.Token(REQUEST, 0, None, text))
    stream.flush()
    content = stream.buffer.getvalue()
    assert content.count(b"\n") == 1
    found = json.loads(content)
    assert list(found) == ["event", "ts_ms", "request_id", "index", "token_id", "text"]
    assert found["text"] == text


@pytest.mark.parametrize(
    ("happened", "event", "values"),
    [
        (news.PeerUp(NODE, "w", "worker", "ready", ("tiny",)), "peer_up", [NODE, "w", ["tiny"]]),
        (news.PeerDown(NODE, "left"), "peer_down", [NODE, "left"]),
        (news.RequestAccepted(REQUEST, NODE, "tiny"), "request", [REQUEST, NODE, "tiny"]),
        (news.RequestEnded(REQUEST, NODE, 5, "stop"), "request_end", [REQUEST, 5, "stop"]),
    ],
    ids=["up", "down", "request", "end"],
)
def test_news_of_a_node_become_events(
    capsys: pytest.CaptureFixture[str], happened: news.NodeEvent, event: str, values: list[object]
) -> None:
    tell(Output("json"), happened)
    [found] = printed(capsys)
    assert [found["event"], *list(found.values())[2:]] == [event, *values]


def test_news_of_a_nodes_own_requests_are_no_events_of_the_command_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tell(Output("json"), news.RequestAsked(REQUEST, "tiny"))
    tell(Output(), news.RequestAnswered(REQUEST, "tiny", NODE, "stop", 2, 3, 1.0, 2.0, 1, 0, "direct"))
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")


def test_an_answer_becomes_a_complete_event(capsys: pytest.CaptureFixture[str]) -> None:
    tell_answer(Output("json"), ANSWER, stats=True)
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert (found["event"], found["total_tokens"], found["worker"]) == ("complete", 2, NODE)
    assert (found["first_token_ms"], found["verified"], found["attempts"]) == (12.5, True, 1)
    assert shown.err == ""


def test_stats_tell_what_people_ask_for_and_broken_signatures_are_loud(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tell_answer(Output(), ANSWER, stats=True)
    told = capsys.readouterr()
    for part in ("2 tokens", "first after 12 ms", "33.3 tok/s", NODE[:10], "direct", "attempts 1", "hold"):
        assert part in told.err
    assert told.out == ""
    tell_answer(Output("quiet"), replace(ANSWER, verified=False), stats=False)
    assert "warning: the signatures of this answer do not hold" in capsys.readouterr().err


def test_a_peer_is_shown_with_all_its_fields() -> None:
    row = row_of(PEER)
    assert all(getattr(row, field.name) == getattr(PEER, field.name) for field in fields(row))


# --- terminals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "attack", ["\x1b[2J", "\x07", "\x9b31m", "\x08" * 5, "\r", "\x7f", "\u202e", "\u2066", "\u200e", "\ud800"]
)
def test_what_could_steer_a_terminal_is_removed(attack: str) -> None:
    assert not set(clean(f"a{attack}b")) & set("\x1b\x07\x9b\x08\r\x7f\u202e\u2066\u200e\ud800")
    assert (clean(f"a{attack}b")[0], clean(f"a{attack}b")[-1]) == ("a", "b")


@settings(deadline=None)  # a busy machine is no failure
@given(text=st.text())
def test_cleaning_keeps_everything_harmless(text: str) -> None:
    kept = clean(text)
    assert clean(kept) == kept
    assert not any(ord(c) < 32 and c not in "\n\t" for c in kept)
    assert len(one_line(text).splitlines()) <= 1


@pytest.mark.parametrize("text", ["zwei\nZeilen\t!", "👩‍💻 東京 é", "می‌خواهم"])
def test_emoji_and_other_scripts_stay_as_they_are(text: str) -> None:
    assert clean(text) == text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("terminal", "shown"), [(True, "a[2Jb\n"), (False, "a\x1b[2Jb\n")])
def test_an_answer_is_cleaned_for_a_terminal_and_exact_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, shown: str
) -> None:
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    output = Output()
    output.answer("a\x1b[2J")
    output.answer("b")
    output.answer_end()
    assert stream.getvalue() == shown


def test_names_of_peers_cannot_break_the_table() -> None:
    lines = table(("NAME", "ID"), [("a\nb\x1b[31m", "1"), ("c", "2")])
    assert len(lines) == 3
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize(
    ("variables", "flag", "coloured"),
    [({}, True, True), ({"NO_COLOR": "1"}, True, False), ({}, False, False), ({"TERM": "dumb"}, True, False)],
)
def test_colour_is_for_terminals_that_want_it(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], flag: bool, coloured: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for stream, expected in ((Terminal(), coloured), (io.StringIO(), False)):
        Output(color=flag, news=stream).say("ready", style="green")
        assert ("\x1b[32m" in stream.getvalue()) == expected


# --- modes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "out", "err"),
    [
        ("human", "answer\nrow\n", "news\nwarning: careful\nerror: wrong\n  better\n"),
        ("quiet", "answer\nrow\n", "warning: careful\nerror: wrong\n  better\n"),
    ],
)
def test_answers_and_rows_go_to_stdout_everything_else_to_stderr(
    capsys: pytest.CaptureFixture[str], mode: str, out: str, err: str
) -> None:
    output = Output(mode)  # type: ignore[arg-type]
    output.event(events.Shutdown("x"))
    output.answer("answer")
    output.answer_end()
    output.row("row")
    output.say("news")
    output.warn("careful")
    output.failure(events.Failure("code", "wrong", "better", 1))
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == (out, err)


def test_in_json_mode_stdout_holds_nothing_but_events(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output("json")
    output.answer("answer")
    output.answer_end()
    output.row("row")
    output.say("news")
    output.warn("careful")
    output.account("stats")
    output.failure(events.Failure("code", "wrong", "better", 1))
    shown = capsys.readouterr()
    assert [json.loads(line)["event"] for line in shown.out.splitlines()] == ["error"]
    assert shown.err == "warning: careful\n"


def test_news_in_the_middle_of_an_answer_begin_on_a_line_of_their_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = Output(news=sys.stdout)
    output.answer("half an ans")
    output.say("+ peer")
    assert capsys.readouterr().out == "half an ans\n+ peer\n"


def test_news_on_stderr_leave_a_piped_answer_whole(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.answer("half an ans")
    output.say("+ peer")
    output.warn("careful")
    output.answer("wer")
    output.answer_end()
    assert capsys.readouterr().out == "half an answer\n"


def test_an_answer_that_ends_its_line_gets_no_second_end(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.answer("line\n")
    output.answer_end()
    assert capsys.readouterr().out == "line\n"


def test_progress_bars_are_for_terminals_only(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from llama_gossip.cli.progress import progress_bars
    from llama_gossip.engine.progress import silent

    with progress_bars(shown=True) as progress:
        assert progress is silent
    assert capsys.readouterr() == ("", "")


def test_a_progress_bar_shows_its_stage_and_amount(monkeypatch: pytest.MonkeyPatch) -> None:
    from llama_gossip.cli.progress import progress_bars

    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with progress_bars(shown=True) as progress:
        progress("fetch", 0, 98_000_000)
        progress("fetch", 98_000_000, 98_000_000)
        progress("convert", 3, 290)
        progress("wait for another process", 0, 0)
    for part in ("fetching", "98/98 MB", "converting", "3/290", "wait for another process"):
        assert part in stream.getvalue()
