"""The budget: what several models may take of one memory, in plain numbers."""

from __future__ import annotations

import pytest

from llama_gossip.engine.budget import Need, PoolBudget, check_fit
from llama_gossip.errors import ModelUnavailable

GB = 1_000_000_000


def test_weights_that_fit_together_are_no_matter() -> None:
    check_fit([Need("a", 2 * GB), Need("b", 3 * GB)], 5 * GB, "this machine")


def test_weights_that_do_not_fit_are_named_with_their_sizes_and_what_can_be_done() -> None:
    with pytest.raises(ModelUnavailable) as caught:
        check_fit([Need("a", 2 * GB), Need("b", 3 * GB + 1)], 5 * GB, "this machine")
    error = caught.value
    assert error.message == (
        "a (2.0 GB) and b (3.0 GB) take 5.0 GB of memory together, and this machine has 5.0 GB free"
    )
    assert (error.exit_code, error.code) == (4, "memory")
    assert "fewer" in error.hint
    assert "--dtype" in error.hint


def test_one_model_that_does_not_fit_is_told_without_company() -> None:
    with pytest.raises(ModelUnavailable) as caught:
        check_fit([Need("a", 540_000_000)], 300_000_000, "cuda:0 X")
    assert caught.value.message == "a (540 MB) takes that much memory, and cuda:0 X has 300 MB free"
    assert "fewer" not in caught.value.hint


def test_memory_that_nobody_knows_refuses_nothing() -> None:
    check_fit([Need("a", 1000 * GB)], 0, "this machine")


def test_models_that_use_their_parts_get_equal_ones() -> None:
    budget = PoolBudget(100, 40, 3, share=0.5)  # 60 are left, 30 of them for pools
    parts = []
    for _ in range(3):
        parts.append(budget.part())
        budget.taken(parts[-1])
    assert parts == [10, 10, 10]


def test_what_a_small_model_leaves_is_for_those_that_come_after_it() -> None:
    budget = PoolBudget(100, 40, 3, share=0.5)
    budget.taken(2)
    assert budget.part() == 14
    budget.taken(14)
    assert budget.part() == 14


def test_a_pool_that_took_more_than_its_part_leaves_less_and_never_a_debt() -> None:
    budget = PoolBudget(100, 40, 2, share=0.5)
    budget.taken(50)  # a model's least pool is one block, however small its part
    assert budget.part() == 0


def test_weights_beyond_what_is_free_leave_nothing_for_pools() -> None:
    assert PoolBudget(100, 120, 1, share=0.5).part() == 0
