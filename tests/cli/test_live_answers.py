"""Two commands on loopback: answers, streams, tickets, refusals. Real processes, the scripted engine."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.cli.cli_process import Running, look, objects, run

pytestmark = pytest.mark.live

FIXED = ("--seed", "7", "--max-tokens", "12")


def worker(home: Path, *more: str, model: str = "scripted") -> Running:
    return Running(home, "worker", "--json", "--model", model, *more)


def test_a_client_gets_the_answer_of_a_worker_without_any_flag(home: Path) -> None:
    with worker(home) as serving:
        ready = serving.event("ready")
        first, second = (run(home, "client", "Hello", *FIXED) for _ in range(2))
        assert (first.returncode, first.stderr) == (0, "")
        assert first.stdout == second.stdout  # the same seed
        assert len(first.stdout.split()) >= 10
        assert first.stdout.endswith("\n")
        assert (ready["role"], ready["models"], ready["reach"]) == ("worker", ["scripted"], "host")
        assert ready["ticket"].startswith("lg1")


def test_the_prompt_may_come_by_flag_or_by_pipe(home: Path) -> None:
    with worker(home) as serving:
        serving.event("ready")
        plain = run(home, "client", "Guten Tag – 東京", *FIXED).stdout
        assert plain.strip()
        assert run(home, "client", "--prompt", "Guten Tag – 東京", *FIXED).stdout == plain
        for arguments in (["-"], []):
            piped = run(home, "client", *arguments, *FIXED, stdin="Guten Tag – 東京\n".encode())
            assert (piped.returncode, piped.stdout) == (0, plain), piped.stderr
        raw = run(home, "client", "--raw", "Guten Tag – 東京", *FIXED).stdout
        assert raw.strip()
        assert raw != plain  # not put through a template


def test_a_json_stream_is_ready_tokens_complete_and_the_worker_tells_the_same_request(home: Path) -> None:
    with worker(home) as serving:
        ready = serving.event("ready")
        done = run(home, "client", "--json", "Hello", *FIXED)
        found = objects(done.stdout)
        assert (done.returncode, done.stderr) == (0, "")
        assert [one["event"] for one in found] == ["ready", *["token"] * 12, "complete"]
        tokens, complete = found[1:-1], found[-1]
        assert [one["index"] for one in tokens] == list(range(12))
        assert "".join(one["text"] for one in tokens) == complete["text"]
        assert {one["request_id"] for one in found[1:]} == {complete["request_id"]}
        assert len(bytes.fromhex(complete["request_id"])) == 16
        assert (complete["worker"], complete["verified"]) == (ready["node_id"], True)
        assert (complete["total_tokens"], complete["finish_reason"]) == (12, "length")
        assert (complete["attempts"], complete["delivery"], complete["resume"]) == (1, "direct", None)
        assert complete["first_token_ms"] > 0
        request = serving.event("request")
        assert request["request_id"] == complete["request_id"]
        assert (request["requester"], request["model"]) == (found[0]["node_id"], "scripted")
        end = serving.event("request_end")
        assert (end["request_id"], end["tokens"]) == (complete["request_id"], 12)


def test_tokens_come_one_by_one_as_they_are_made(home: Path) -> None:
    with worker(home, model="scripted:delay_ms=20,hang_after=5") as serving:
        serving.event("ready")
        with Running(home, "client", "--json", "--max-tokens", "10", "Hello") as asking:
            asking.event("ready")
            for index in range(5):  # told while the engine hangs in the sixth
                asking.event("token", index=index)
            asking.signal(signal.SIGINT)
            assert asking.wait() == 130


def test_stats_are_on_stderr_and_the_answer_alone_on_stdout(home: Path) -> None:
    with worker(home) as serving:
        ready = serving.event("ready")
        plain = run(home, "client", "Hello", *FIXED)
        told = run(home, "client", "Hello", "--stats", *FIXED)
    assert told.stdout == plain.stdout
    for part in ("12 tokens", "tok/s", ready["node_id"][:10], "direct", "attempts 1", "signatures hold"):
        assert part in told.stderr


def test_nobody_serves_is_exit_4_and_says_what_to_do(home: Path) -> None:
    done = run(home, "client", "Hello")
    assert (done.returncode, done.stdout) == (4, "")
    assert "error:" in done.stderr
    assert "llama-gossip worker" in done.stderr


def test_a_model_that_nobody_has_is_exit_4_and_names_what_there_is(home: Path) -> None:
    with worker(home) as serving:
        serving.event("ready")
        done = run(home, "client", "--json", "--model", "llama-9", "Hello")
    [error] = [one for one in objects(done.stdout) if one["event"] == "error"]
    assert (done.returncode, error["exit_code"]) == (4, 4)
    assert "llama-9" in error["message"]
    assert "scripted" in error["message"] + error["hint"]


def test_a_prompt_over_the_context_is_a_usage_error(home: Path) -> None:
    with worker(home, model="scripted:context=64") as serving:
        serving.event("ready")
        done = run(home, "client", "x" * 500)
        assert done.returncode == 2, done.stderr
        assert run(home, "client", "--max-tokens", "8", "short").returncode == 0


def test_two_workers_without_flags_see_each_other(home: Path) -> None:
    with worker(home) as first:
        one = first.event("ready")
        with worker(home) as second:
            two = second.event("ready")
            seen = first.event("peer_up", node_id=two["node_id"])
            back = second.event_so_far("peer_up", node_id=one["node_id"])
            assert (one["name"], two["name"]) == ("node-1", "node-2")
            assert (seen["models"], back["models"]) == (["scripted"], ["scripted"])
            print(f"after {max(seen['ts_ms'], back['ts_ms']) - two['ts_ms']} ms")


# --- tickets ------------------------------------------------------------------------------------


def test_a_ticket_opens_the_network_to_another_home(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with worker(home) as serving:
        ticket = str(serving.event("ready")["ticket"])
        (tmp_path / "ticket.txt").write_text(ticket + "\n", encoding="ascii")
        for join in (ticket, f"@{tmp_path / 'ticket.txt'}"):
            done = run(other, "client", "--join", join, "Hello", *FIXED)
            assert (done.returncode, done.stderr) == (0, "")
        piped = run(other, "client", "--bootstrap", "-", "Hello", *FIXED, stdin=ticket.encode())
        assert piped.stdout == done.stdout


def test_the_ticket_command_names_the_running_peers_and_warns(home: Path, tmp_path: Path) -> None:
    assert run(home, "ticket").returncode == 4
    with worker(home) as serving:
        ready = serving.event("ready")
        done = look(home, "ticket", sees="lg1")
        assert done.returncode == 0
        assert "lets whoever holds it into your network" in done.stderr
        ticket = done.stdout.strip()
        assert ticket.startswith("lg1")
        assert ticket.isalnum()
        [row] = objects(look(home, "ticket", "--json", sees=ready["node_id"]).stdout)
        assert (row["event"], row["peers"]) == ("ticket", [ready["node_id"]])
        assert run(tmp_path / "other", "client", "--join", ticket, "Hello", *FIXED).returncode == 0


@pytest.mark.parametrize("defect", ["truncated", "checksum", "wrong_kind", "empty"])
def test_a_bad_ticket_is_exit_3_and_names_its_defect(home: Path, defect: str) -> None:
    with worker(home) as serving:
        ticket = str(serving.event("ready")["ticket"])
    bad = {
        "truncated": ticket[:-9],
        "checksum": ticket[:40] + ("a" if ticket[40] != "a" else "b") + ticket[41:],
        "wrong_kind": "https://example.org",
        "empty": "lg1",
    }[defect]
    done = run(home, "client", "--json", "--join", bad, "Hello")
    [error] = objects(done.stdout)
    assert (done.returncode, error["event"]) == (3, "error")
    assert error["code"].startswith("ticket")
    assert error["message"]
    assert error["hint"]
    if defect in ("checksum", "wrong_kind"):
        assert error["code"] == f"ticket_{defect}"


def test_tickets_of_two_networks_are_a_usage_error(home: Path, tmp_path: Path) -> None:
    with worker(home) as one, worker(tmp_path / "other") as two:
        tickets = [str(serving.event("ready")["ticket"]) for serving in (one, two)]
    done = run(tmp_path / "third", "client", "--join", tickets[0], "--join", tickets[1], "Hello")
    assert done.returncode == 2
    assert "different networks" in done.stderr


# --- peers, keys -----------------------------------------------------------------------------------


def test_peers_shows_who_is_there(home: Path) -> None:
    assert run(home, "peers", "--json").stdout == ""
    with worker(home, "--name", "hans") as serving:
        ready = serving.event("ready")
        [row] = objects(look(home, "peers", "--json", sees=ready["node_id"]).stdout)
        assert (row["event"], row["node_id"], row["name"]) == ("peer", ready["node_id"], "hans")
        assert (row["role"], row["state"], row["models"]) == ("worker", "ready", ["scripted"])
        assert row["version"] == "0.1.0"
        shown = look(home, "peers", sees="hans").stdout.splitlines()
        assert shown[0].split()[:3] == ["NAME", "ID", "ROLE"]
        assert shown[1].split()[:3] == ["hans", ready["node_id"][:10], "worker"]


def test_a_named_key_in_use_is_refused_with_the_pid(home: Path) -> None:
    with worker(home, "--name", "hans") as serving:
        serving.event("ready")
        done = run(home, "client", "--name", "hans", "Hello")
        assert done.returncode == 3
        assert f"process {serving.process.pid}" in done.stderr
        path = home / "data" / "keys" / "hans.key"
        assert run(home, "client", "--key-file", str(path), "Hello").returncode == 3


def test_an_allowlist_keeps_strangers_out(home: Path, tmp_path: Path) -> None:
    home.mkdir()
    [friend] = objects(run(home, "key", "--name", "friend", "--json").stdout)
    (tmp_path / "allowlist").write_text(f"{friend['node_id']}  # the friend\n", encoding="ascii")
    with Running(
        home, "worker", "--json", "--model", "scripted", LLAMA_GOSSIP_ALLOWLIST=str(tmp_path / "allowlist")
    ) as serving:
        serving.event("ready")
        assert run(home, "client", "--name", "friend", "Hello", *FIXED).returncode == 0
        assert run(home, "client", "--name", "stranger", "Hello", *FIXED).returncode == 4


# --- hybrid ----------------------------------------------------------------------------------------


def test_hybrid_answers_each_line_and_serves_others_also_after_its_input_has_ended(home: Path) -> None:
    with Running(home, "hybrid", "--json", "--model", "scripted", *FIXED) as both:
        ready = both.event("ready")
        assert ready["role"] == "hybrid"
        both.write("Hello\n\n")
        first = both.event("complete")
        both.write("Hello\n")
        assert both.event("complete")["text"] == first["text"]
        assert first["worker"] == ready["node_id"]
        [row] = objects(look(home, "peers", "--json", sees=ready["node_id"]).stdout)
        assert (row["role"], row["state"]) == ("hybrid", "ready")
        assert both.process.stdin is not None
        both.process.stdin.close()
        done = run(home, "client", "Hello", *FIXED)
        assert (done.returncode, done.stdout.rstrip("\n")) == (0, first["text"])
        both.event("request_end")


def test_hybrid_prints_answers_alone_on_stdout(home: Path) -> None:
    with Running(home, "hybrid", "--model", "scripted", *FIXED) as both:
        both.write("Hello\nGoodbye\n")
        lines = [both.line(), both.line()]
        assert [len(line.split()) >= 10 for line in lines] == [True, True]
        assert lines[0] != lines[1]
        both.error_with("is ready")
