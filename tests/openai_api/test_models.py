"""Models as they are listed."""

from __future__ import annotations

from llama_gossip.openai_api import model_object, models_list


def test_models_are_listed_by_name_with_all_that_clients_read() -> None:
    assert models_list({"b/c": 2, "a": 1}) == {
        "object": "list",
        "data": [
            {"id": "a", "object": "model", "created": 1, "owned_by": "llama-gossip"},
            {"id": "b/c", "object": "model", "created": 2, "owned_by": "llama-gossip"},
        ],
    }
    assert models_list({})["data"] == []
    assert model_object("a", 1) == models_list({"a": 1})["data"][0]
