"""One worker command with several models. Real processes, the scripted engine under two names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.cli_process import Running, objects, run

pytestmark = pytest.mark.live

TWO = ("--model", "scripted", "--model", "paced:1")


def test_a_worker_of_two_models_names_both_answers_for_both_and_for_no_third(home: Path) -> None:
    with Running(home, "worker", "--json", *TWO) as serving:
        ready = serving.event("ready")
        assert (ready["models"], ready["device"]) == (["scripted", "paced"], "none")
        [peer] = [one for one in objects(run(home, "peers", "--json").stdout) if one["event"] == "peer"]
        assert peer["models"] == ["scripted", "paced"]
        assert (peer["max_concurrent"], peer["tokens_per_s"]) == (8, 1000.0)  # of the slower
        for model in ("paced", "scripted"):
            asked = run(home, "client", "--json", "--model", model, "--max-tokens", "3", "Hello")
            assert objects(asked.stdout)[-1]["model"] == model
            assert serving.event("request", model=model)
        third = run(home, "client", "--json", "--model", "third", "Hello")
    assert third.returncode == 4
    told = objects(third.stdout)[-1]
    assert "'scripted', 'paced'" in told["message"] + told["hint"]


def test_people_are_told_of_each_model(home: Path) -> None:
    with Running(home, "worker", *TWO) as serving:
        serving.line_with("loading scripted and paced:1")
        serving.line_with("model   scripted, none, no weights")
        serving.line_with("model   paced, none, no weights, about 1000 tok/s")
        serving.line_with("device  none (scripted), 8 at once")


def test_one_that_is_not_there_keeps_the_worker_from_joining_at_all(home: Path) -> None:
    done = run(home, "worker", "--json", "--model", "scripted", "--model", "llama-9")
    assert done.returncode == 4
    assert [one["event"] for one in objects(done.stdout)] == ["error"]
    assert "llama-9" in done.stdout


def test_a_client_that_names_two_models_is_told_to_name_one(home: Path) -> None:
    done = run(home, "client", *TWO, "Hello")
    assert done.returncode == 2
    assert "names 2 models, a request asks for one" in done.stderr
    assert "--model scripted" in done.stderr


def test_the_lines_of_a_hybrid_are_asked_of_its_first_model(home: Path) -> None:
    with Running(home, "hybrid", "--json", *TWO) as serving:
        serving.event("ready")
        serving.write("Hello\n")
        assert serving.event("complete")["model"] == "scripted"
