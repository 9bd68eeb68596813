"""Hypothesis strategies for every message: any value that PROTOCOL section 3 allows."""

from __future__ import annotations

from hypothesis import strategies as st

from llama_gossip.protocol.limits import MAX_U32, MAX_U64
from llama_gossip.protocol.messages import (
    Ack,
    Announce,
    Assign,
    Cancel,
    Capacity,
    ChatPrompt,
    Claim,
    Complete,
    Error,
    FinishReason,
    GenerationConfig,
    Head,
    IdsPrompt,
    Leave,
    Message,
    ModelOffer,
    NodeState,
    NumericsClass,
    Packet,
    Phase,
    Progress,
    PromptFacts,
    RawPrompt,
    Reject,
    RejectReason,
    Request,
    Resume,
    Seal,
    Token,
    TokenLogprob,
)

_EDGES = [0, 1, 127, 128, 255, 256, 65_535, 65_536, MAX_U32, MAX_U32 + 1, 2**63 - 1, 2**63, MAX_U64]
u64 = st.sampled_from(_EDGES) | st.integers(0, MAX_U64)
u32 = st.sampled_from([edge for edge in _EDGES if edge <= MAX_U32]) | st.integers(0, MAX_U32)
f64 = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(max_size=20)
key = st.binary(min_size=32, max_size=32)
digest = st.none() | key
marks = st.binary(min_size=8, max_size=8)
numerics = st.sampled_from(NumericsClass)
heads = st.builds(Head, u64, u64, u64)
ascii_names = st.text(st.characters(max_codepoint=127), max_size=24)


def short(most_bytes: int) -> st.SearchStrategy[str]:
    return st.text(max_size=most_bytes).filter(lambda s: len(s.encode()) <= most_bytes)


def several(element: st.SearchStrategy[object], most: int) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(element, max_size=most).map(tuple)


offers = st.builds(ModelOffer, short(40), digest, u64, text, st.none() | text, numerics)
capacities = st.builds(Capacity, text, text, several(offers, 4), u64, u64, u64, u64, f64, u64)
prompts = st.one_of(
    st.builds(RawPrompt, text),
    st.builds(ChatPrompt, several(st.tuples(text, text), 5)),
    st.builds(IdsPrompt, several(u32, 200)),
)
configs = st.builds(
    GenerationConfig,
    max_tokens=u64,
    temperature=f64,
    top_p=f64,
    top_k=st.none() | u64,
    seed=u64,
    stop=several(text, 4),
    ignore_eos=st.booleans(),
    fit=st.booleans(),
    logprobs=st.none() | st.integers(0, 20),
    min_p=f64,
    repetition=f64,
    presence=f64,
    frequency=f64,
    logit_bias=several(st.tuples(u32, f64), 4),
)
priorities = st.integers(0, 9)
request_ids = st.binary(min_size=16, max_size=16)
facts = st.builds(PromptFacts, u64, digest, digest, st.none() | text, numerics)
logprobs = st.builds(TokenLogprob, f64, several(st.tuples(text, f64), 3))
dates = st.dates().map(lambda day: day.isoformat())


@st.composite
def resumes(draw: st.DrawFn) -> Resume:
    ids = draw(st.lists(u32, max_size=80))
    from_index = len(ids) if ids else draw(u64)
    return Resume(from_index, tuple(ids), draw(text), draw(digest), draw(st.none() | text))


@st.composite
def tokens(draw: st.DrawFn) -> Token:
    texts = draw(st.lists(text, min_size=1, max_size=10))
    count = len(texts)
    ids = draw(st.just([]) | st.lists(u32, min_size=count, max_size=count))
    tops = draw(st.none() | st.lists(logprobs, min_size=count, max_size=count).map(tuple))
    return Token(draw(u64), draw(u64), tuple(ids), tuple(texts), tops)


@st.composite
def completes(draw: st.DrawFn) -> Complete:
    total = draw(u64)
    finish = draw(st.sampled_from(FinishReason))
    return Complete(draw(u64), total, draw(f64), finish, draw(u64), total, draw(key), draw(digest))


announces = st.builds(
    Announce,
    heads,
    short(40),
    capacities,
    st.sampled_from(NodeState),
    several(ascii_names, 16),
    key,
    several(text, 8),
    u64,
    several(st.tuples(st.binary(min_size=8, max_size=8), u64), 3),
    several(marks, 16),
)
requests = st.builds(
    Request,
    heads,
    request_ids,
    text,
    u64,
    u64,
    priorities,
    u64,
    key,
    st.none() | prompts,
    st.none() | configs,
)
claims = st.builds(
    Claim,
    heads,
    key,
    request_ids,
    key,
    u64,
    u64,
    f64,
    digest,
    st.none() | text,
    numerics,
    key,
    several(text, 8),
)
assigns = st.builds(
    Assign,
    heads,
    request_ids,
    st.integers(1, MAX_U32),
    key,
    u64,
    u64,
    prompts,
    configs,
    st.none() | resumes(),
    priorities,
    u64,
    text,
    digest,
    dates,
    st.none() | marks,
)
frames = st.one_of(
    st.builds(Reject, u64, st.sampled_from(RejectReason), u64, u64),
    st.builds(Progress, u64, st.sampled_from(Phase), u64, u64, st.none() | facts),
    tokens(),
    st.builds(Ack, u64, u64),
    completes(),
    st.builds(Error, u64, short(256), text, st.booleans()),
    st.builds(Cancel, u64, text),
)
packets = st.builds(
    Packet,
    heads,
    key,
    key,
    request_ids,
    st.integers(1, MAX_U32),
    st.none() | st.builds(Seal, st.binary(min_size=8, max_size=8), key),
    st.binary(max_size=600),
)
envelopes = st.one_of(announces, st.builds(Leave, heads, text), requests, claims, assigns, packets)
messages: st.SearchStrategy[Message] = envelopes | frames
