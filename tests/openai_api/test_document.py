"""The document: valid in itself, and its schemas take what the code takes, and no more."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from llama_gossip.openai_api import (
    ApiError,
    Choice,
    Shaper,
    chat_asked,
    completion_asked,
    model_object,
    models_list,
    openapi,
)
from llama_gossip.openai_api.request_schemas import chat_request, completion_request
from tests.openai_api.asking import chat, chat_body, completion, completion_body
from tests.openai_api.test_answers import STREAM_WITH_USAGE, TOKENS, ended, event, shaper

DOCUMENT = openapi()
SCHEMAS = DOCUMENT["components"]["schemas"]
REQUESTS = {"ChatRequest": chat_asked, "CompletionRequest": completion_asked}
BODIES = {"ChatRequest": chat_body, "CompletionRequest": completion_body}
EDGES: tuple[object, ...] = (
    *(
        None,
        True,
        False,
        "",
        "a",
        "none",
        "text",
        "auto",
        [],
        {},
        [None],
        [1],
        [[1]],
        [[]],
        ["a"],
        [["a"]],
        [{}],
    ),
    *(-101, -100.5, -100, -2.5, -2, -1, -0.5, 0, 0.001, 0.01, 0.5, 1, 1.5, 2, 2.5, 5, 6, 9.5, 10, 11, 20, 21),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**64 - 1, 2**64, [2**32 - 1], [2**32]),
    *(["a"] * 4, ["a"] * 5, ["a"] * 16, ["a"] * 17, [[1]] * 17, ["a", 1], [1, 1.5], [1, "a"], [1, True]),
    *({"type": "text"}, {"type": "json_object"}, {"include_usage": True}, {"include_usage": 1}),
    *({"7": 100}, {"7": 100.5}, {"7": -101}, {"7": None}, {"07": 1}, {"999999999": 1}, {"1000000000": 1}),
    *({str(n): 1 for n in range(64)}, {str(n): 1 for n in range(65)}, ["text"], ["text", "audio"]),
    *([{"role": role, "content": "a"}] for role in ("user", "system", "developer", "tool", "function")),
)


def validator(name: str) -> Draft202012Validator:
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return Draft202012Validator(schema)


VALIDATORS = {name: validator(name) for name in REQUESTS}


def references(value: object) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def test_it_is_an_openapi_document_of_plain_json() -> None:
    assert json.loads(json.dumps(DOCUMENT)) == DOCUMENT
    assert DOCUMENT["openapi"].startswith("3.1")
    assert "/api/events" not in DOCUMENT["paths"]


@pytest.mark.parametrize("name", SCHEMAS)
def test_its_schemas_are_schemas(name: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[name])


def test_what_it_refers_to_is_there_and_what_is_there_is_referred_to() -> None:
    described = {name.rpartition("/")[2] for name in references(DOCUMENT)}
    there = {*SCHEMAS, *DOCUMENT["components"]["headers"]}
    assert described == there


def test_operations_have_names_of_their_own_and_every_failure_its_shape() -> None:
    operations = [operation for path in DOCUMENT["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations) == 10
    for operation in operations:
        for status, reply in operation["responses"].items():
            assert "x-request-id" in reply["headers"]
            if status != "200":
                assert reply["content"]["application/json"]["schema"]["$ref"].endswith("/Error")


def test_callers_get_a_document_of_their_own() -> None:
    openapi()["paths"].clear()
    assert openapi()["paths"]


# --- what is asked -----------------------------------------------------------------------------

_NUMBERS = st.sampled_from([-101, -100, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 20, 21, 64, 2**31, 2**32, 2**64])
_FRACTIONS = st.sampled_from([-2.5, -0.5, 0.001, 0.5, 1.5, 2.5])  # 1.0 is an integer to a schema, not to us
_SCALARS = st.none() | st.booleans() | _NUMBERS | _FRACTIONS | st.sampled_from(["", "a", "1", "text", "none"])
_PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url"])}, optional={"text": st.sampled_from(["a", 1, None])}
)
_MESSAGES = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "developer", "tool", "function", None]),
        "content": st.sampled_from(["a", "", None, 1, []]) | st.lists(_PARTS, max_size=2),
    },
    optional={"name": _SCALARS, "tool_calls": _SCALARS | st.just([]) | st.just([{}]), "refusal": _SCALARS},
)
_OBJECTS = st.dictionaries(
    st.sampled_from(["0", "7", "01", "type", "include_usage", "1000000000"]), _SCALARS, max_size=2
)
_VALUES = (
    _SCALARS
    | st.lists(_SCALARS, max_size=6)
    | st.lists(st.lists(_NUMBERS | _FRACTIONS, max_size=2), max_size=2)
    | st.lists(_MESSAGES, max_size=2)
    | _OBJECTS
    | st.just(["a"] * 17)
)


def same_verdict(name: str, body: bytes) -> bool:
    return VALIDATORS[name].is_valid(json.loads(body)) == is_taken(name, body)


def is_taken(name: str, body: bytes) -> bool:
    try:
        REQUESTS[name](body)
    except ApiError:
        return False
    return True


def bodies(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, object]]:
    return st.dictionaries(st.sampled_from(list(schema["properties"])), _VALUES, min_size=2, max_size=3)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_schema_of_a_request_takes_what_the_code_takes(name: str) -> None:
    different = [
        (field, value)
        for field in SCHEMAS[name]["properties"]
        for value in EDGES
        if not same_verdict(name, BODIES[name](**{field: value}))
    ]
    assert different == []


@settings(max_examples=300)
@given(bodies(chat_request()))
def test_it_does_so_for_fields_of_a_chat_that_meet(fields: dict[str, object]) -> None:
    assert same_verdict("ChatRequest", chat_body(**fields))


@settings(max_examples=300)
@given(bodies(completion_request()))
def test_it_does_so_for_fields_of_a_completion_that_meet(fields: dict[str, object]) -> None:
    assert same_verdict("CompletionRequest", completion_body(**fields))


# --- what is answered --------------------------------------------------------------------------


@pytest.mark.parametrize("logprobs", [{}, {"logprobs": True, "top_logprobs": 2}])
def test_a_chat_is_answered_in_the_form_that_is_described(logprobs: dict[str, object]) -> None:
    shape = shaper(chat(**logprobs, **STREAM_WITH_USAGE))
    validator("ChatCompletion").validate(shape.whole([Choice("hé!", TOKENS, ended())]))
    check_chunks("ChatCompletionChunk", shape)


@pytest.mark.parametrize("logprobs", [{}, {"logprobs": 2}])
def test_a_completion_is_answered_in_the_form_that_is_described(logprobs: dict[str, object]) -> None:
    shape = shaper(completion(prompt=["a", "b"], **logprobs, **STREAM_WITH_USAGE))
    choice = Choice("hé!", TOKENS, ended(resume=None))
    validator("Completion").validate(shape.whole([choice, choice]))
    check_chunks("CompletionChunk", shape)


def check_chunks(name: str, shape: Shaper) -> None:
    chunks = [shape.begin(0), *(shape.piece(0, token) for token in TOKENS), shape.finish(0, ended())]
    for chunk in (*filter(None, chunks), shape.usage(1, 2)):
        validator(name).validate(event(chunk))


def test_models_and_errors_have_the_form_that_is_described() -> None:
    validator("Model").validate(model_object("a", 1))
    validator("ModelList").validate(models_list({"a": 1}))
    validator("Error").validate(ApiError(400, "no").body())
