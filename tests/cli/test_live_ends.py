"""How commands end on loopback: signals, drains, deaths of the other side, errors at the start."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from tests.cli.cli_process import PROGRAM, READY_S, Running, environment, objects, run

pytestmark = pytest.mark.live

PACE_MS = 20
TORCH_S = 240.0  # its import alone takes half a minute on a machine that is busy
ENDLESS = ("--max-tokens", "4000", "--json")


def worker(home: Path, *more: str, model: str = f"paced:{PACE_MS}", **env: str) -> Running:
    return Running(home, "worker", "--json", "--model", model, *more, **env)


def client(home: Path, *more: str) -> Running:
    return Running(home, "client", "Hello", *more)


@contextmanager
def piped(home: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes]]]:
    """A process whose output the test may stop reading; its stdout and stderr."""
    with subprocess.Popen(
        [*PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(home)
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            yield process, process.stdout, process.stderr
        finally:
            process.kill()


def left_over(home: Path) -> list[Path]:
    """What a process that has ended must not leave: rendezvous entries and half-written files."""
    run_files = [path for path in (home / "run").rglob("*") if not path.is_dir()]
    return run_files + [path for path in home.rglob(".*") if path.is_file()]


# --- the client ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_client_stops_the_worker_and_names_itself_in_the_exit_code(
    home: Path, number: signal.Signals, code: int
) -> None:
    with worker(home) as serving:
        serving.event("ready")
        with client(home, *ENDLESS) as asking:
            asking.event("token", index=2)
            wall_ms = time.time() * 1000
            asking.signal(number)
            assert asking.wait() == code
            end = serving.event("request_end")
            assert asking.errors == []
            print(f"stopped after {end['ts_ms'] - wall_ms:.0f} ms")
        assert end["tokens"] < 4000  # 80 s of work
        assert "complete" not in [event["event"] for event in asking.events()]
        assert run(home, "client", "Hello", "--max-tokens", "3").returncode == 0  # the slot is free again
        serving.signal(signal.SIGTERM)
        assert serving.wait() == 0
    assert left_over(home) == []


def test_a_reader_that_has_enough_stops_the_worker_too(home: Path) -> None:
    with worker(home) as serving:
        serving.event("ready")
        with piped(home, "client", "Hello", *ENDLESS) as (asking, out, err):
            assert out.readline()
            out.close()  # as `| head -1` does
            assert serving.event("request_end")["tokens"] < 4000
            assert err.read() == b""
            assert asking.wait(READY_S) == 141


def test_a_deadline_is_exit_6(home: Path) -> None:
    with worker(home) as serving:
        serving.event("ready")
        done = run(home, "client", "Hello", *ENDLESS, "--deadline", "4")
        error = objects(done.stdout)[-1]
        assert (done.returncode, error["event"], error["exit_code"]) == (6, "error", 6)
        assert serving.event("request_end")["tokens"] < 4000


# --- the other side dies --------------------------------------------------------------------------


def test_a_worker_that_dies_before_the_first_token_is_replaced_by_another(home: Path) -> None:
    with worker(home, model="scripted:hang_after=0") as hanging:
        first = hanging.event("ready")
        with client(home, "--json", "--max-tokens", "5") as asking:
            hanging.event("request")
            with worker(home, model="scripted:stop_after=5") as healthy:
                second = healthy.event("ready")
                hanging.process.kill()
                complete = asking.event("complete")
                assert asking.wait() == 0
    assert complete["worker"] == second["node_id"] != first["node_id"]
    assert complete["attempts"] >= 2  # more where the second one took its time to start
    assert (complete["total_tokens"], complete["verified"]) == (5, True)


@pytest.mark.slow
def test_a_worker_that_dies_alone_is_a_sentence_and_no_hang(home: Path) -> None:
    with worker(home, model="scripted:hang_after=0") as hanging:
        hanging.event("ready")
        with client(home, "--json") as asking:
            hanging.event("request")
            hanging.process.kill()
            error = asking.event("error")
            code = asking.wait()
    assert code in (4, 5)  # nobody is left, or the one there was has failed
    assert error["exit_code"] == code
    assert error["message"]
    assert error["hint"]


@pytest.mark.slow
def test_an_answer_that_breaks_off_and_that_nobody_continues_is_never_a_success(home: Path) -> None:
    with worker(home) as serving:
        serving.event("ready")
        with client(home, *ENDLESS) as asking:
            asking.event("token", index=2)
            serving.process.kill()
            error = asking.event("error")  # it has time to come back
            assert asking.wait() == error["exit_code"] != 0
            assert "complete" not in [event["event"] for event in asking.events()]


def test_a_worker_whose_engine_fails_is_exit_5(home: Path) -> None:
    with worker(home, model="scripted:fail_before_first=1") as serving:
        serving.event("ready")
        done = run(home, "client", "Hello")
    assert done.returncode == 5
    assert "Traceback" not in done.stderr


# --- the worker ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")]
)
def test_the_first_signal_lets_a_running_answer_end_and_leaves_with_0(
    home: Path, number: signal.Signals, reason: str
) -> None:
    with worker(home) as serving:
        ready = serving.event("ready")
        with client(home, "--json", "--max-tokens", "50") as asking:
            asking.event("token", index=0)
            serving.signal(number)
            assert asking.event("complete")["total_tokens"] == 50
            assert asking.wait() == 0
        assert serving.wait() == 0
        assert serving.errors[-1:] == [] or "warning" in serving.errors[-1]
    told = serving.events()
    assert (told[-1]["event"], told[-1]["reason"]) == ("shutdown", reason)
    assert [event["event"] for event in told].count("shutdown") == 1
    assert ready["node_id"]
    assert left_over(home) == []


@pytest.mark.slow
def test_a_draining_worker_takes_nothing_new(home: Path) -> None:
    with worker(home) as serving:
        serving.event("ready")
        with client(home, *ENDLESS) as asking:
            asking.event("token", index=0)
            serving.signal(signal.SIGTERM)
            late = run(home, "client", "Hello", "--json")
            assert late.returncode in (4, 5), late.stdout
            assert asking.event("error")["exit_code"] in (4, 5)  # what could not be finished
        assert serving.wait() == 0


def test_the_second_signal_ends_a_worker_at_once(home: Path) -> None:
    with Running(home, "worker", "--model", f"paced:{PACE_MS}") as serving:
        serving.line_with("is ready")
        with client(home, *ENDLESS) as asking:
            asking.event("token", index=0)
            serving.signal(signal.SIGTERM)
            serving.line_with("finishing what runs")  # two signals at once have no order
            serving.signal(signal.SIGINT)
            assert serving.wait() == 130  # at the end of its grace it would be 143, after the drain 0


def test_the_others_are_told_when_a_worker_leaves(home: Path) -> None:
    with worker(home) as staying:
        staying.event("ready")
        with worker(home) as leaving:
            node_id = leaving.event("ready")["node_id"]
            staying.event("peer_up", node_id=node_id)
            leaving.signal(signal.SIGTERM)
            staying.event("peer_down", node_id=node_id, reason="terminated")  # not: silence
            assert leaving.wait() == 0


@pytest.mark.timeout(600)
def test_a_signal_while_a_model_loads_ends_the_worker_in_an_orderly_way(home: Path) -> None:
    with worker(home) as watching:
        watching.event("ready")
        with worker(home, model="tiny-random") as loading:
            watching.event("peer_up")  # it has joined, and listens to signals
            loading.signal(signal.SIGTERM)
            assert loading.wait(TORCH_S) == 0  # an import does not let go of the interpreter before its end
        watching.signal(signal.SIGTERM)
        assert watching.wait() == 0
    assert "Traceback" not in "".join(loading.errors)
    assert left_over(home) == []


@pytest.mark.parametrize("command", ["worker", "hybrid"])
@pytest.mark.parametrize("model", ["smollm2-135n", "/nowhere/model.gguf", "scripted:bogus=1"])
def test_a_model_that_is_not_there_is_told_before_anybody_hears_of_the_node(
    home: Path, command: str, model: str
) -> None:
    with worker(home) as watching:
        known = watching.event("ready")
        done = run(home, command, "--json", "--model", model)
        assert [event["event"] for event in objects(done.stdout)] == ["error"]
        keys = objects(run(home, "key", "--json").stdout)
        assert [key["node_id"] for key in keys] == [known["node_id"]]  # not even a key was made
        with worker(home) as other:  # the first that the watching one hears of
            node_id = other.event("ready")["node_id"]
            assert watching.event("peer_up")["node_id"] == node_id


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--model", "smollm2-135n"], 4, "did you mean smollm2-135m?"),
        (["--model", "/nowhere/model.gguf"], 4, "there is no file"),
        (["--model", "scripted:bogus=1"], 2, "bogus"),
        (["--model", "tiny-random", "--dtype", "int3"], 2, "int3"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_cannot_be_served_is_one_sentence_with_its_exit_code(
    home: Path, arguments: list[str], code: int, told: str
) -> None:
    done = run(home, "worker", "--json", *arguments, timeout_s=TORCH_S)
    events: list[dict[str, Any]] = objects(done.stdout)
    [error] = [event for event in events if event["event"] == "error"]
    assert (done.returncode, error["exit_code"]) == (code, code)
    assert told in error["message"] + error["hint"]
    assert "Traceback" not in done.stderr
    assert left_over(home) == []


@pytest.mark.timeout(600)
def test_a_missing_cuda_device_is_loud_and_the_cpu_serves(home: Path) -> None:
    with worker(home, "--device", "cuda:77", model="tiny-random") as serving:
        assert serving.event("ready", timeout_s=TORCH_S)["device"].startswith("cpu")
        serving.error_with("warning: ", "cuda:77")


def test_a_key_file_that_others_can_read_is_exit_3(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "open.key"
    path.write_bytes(bytes(range(32)))
    path.chmod(0o644)
    done = run(home, "worker", "--key-file", str(path), "--model", "scripted")
    assert done.returncode == 3
    assert f"chmod 600 {path}" in done.stderr


def test_a_worker_says_in_words_what_serves_and_what_to_type_next(home: Path) -> None:
    with Running(home, "worker", "--model", "scripted", "--name", "hans") as serving:
        serving.line_with("lets whoever holds it")
        lines = serving.lines[:]
        serving.signal(signal.SIGINT)
        assert serving.wait() == 0
    text = "".join(lines)
    assert lines[0].startswith("loading scripted")
    assert lines[1].startswith("worker hans is ready (")
    assert "llama-gossip client --join lg1" in text
    assert 'llama-gossip client "Hello"  (same host and user: no ticket needed)' in text
    for part in ("scripted", "8 at once", "tok/s", "device"):
        assert part in text
    assert "interrupted: finishing what runs" in "".join(serving.lines)
    assert "\x1b" not in text  # a pipe gets no colours


def test_a_worker_whose_output_nobody_reads_leaves_in_an_orderly_way(home: Path) -> None:
    with worker(home) as watching:
        watching.event("ready")
        with piped(home, "worker", "--json", "--model", "scripted") as (leaving, out, err):
            node_id = next(e["node_id"] for e in map(json.loads, out) if e["event"] == "ready")
            watching.event("peer_up", node_id=node_id)
            out.close()
            asked = run(home, "client", "Hello", "--worker", node_id)
            assert asked.returncode in (0, 5), (
                "the client's coming ends the worker, before its request or after"
            )
            watching.event("peer_down", node_id=node_id)  # its Leave, or its silence: the topic is in motion
            assert err.read() == b"warning: scripted words, no model: for tests and benches\n"
            assert leaving.wait(READY_S) == 141


def test_hybrid_ends_with_0_while_its_input_stays_open_and_tells_the_end_of_what_it_asked(home: Path) -> None:
    with Running(home, "hybrid", "--json", "--model", f"paced:{PACE_MS}", "--max-tokens", "4000") as both:
        both.event("ready")
        both.write("Hello\n")
        both.event("token")
        both.signal(signal.SIGTERM)
        assert both.wait() == 0
        assert both.errors == ["warning: scripted words, no model: for tests and benches\n"]
        told = both.events()
    assert [event["event"] for event in told].count("complete") == 0
    [cut] = [event for event in told if event["event"] == "error"]
    assert cut["code"] == "cancelled"
    assert (told[-1]["event"], told[-1]["reason"]) == ("shutdown", "terminated")
