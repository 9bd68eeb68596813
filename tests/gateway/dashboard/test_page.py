"""The page as a browser gets it: the policy, the words of others, and what it is without JavaScript."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from html.parser import HTMLParser
from typing import Any

import pytest

from llama_gossip.gateway.page import COLUMNS, Page
from llama_gossip.gateway.status import peer_row

from .staging import Stage
from .test_status import HOSTILE

VOID = {"meta", "link", "input", "br"}
PAGE = Page()
NETWORK = {
    "peers": 1,
    "ready_workers": 1,
    "models": ["a"],
    "running": 0,
    "max_concurrent": 8,
    "queue_depth": 0,
    "requests": 0,
    "failovers": 0,
}


class Read(HTMLParser):
    """Elements as (name, attributes), the text, and tags that do not fit."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.misfits: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID and tag not in ("path",):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "path":
            return
        if not self.open or self.open.pop() != tag:
            self.misfits.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append((self.open[-1] if self.open else "", data))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def inside(self, tag: str) -> list[str]:
        return [data for name, data in self.text if name == tag]


def page_of(*peers: Any) -> Read:
    return Read(PAGE.text({"peers": list(peers), "network": NETWORK}))


def rules() -> dict[str, str]:
    policy = PAGE.headers["content-security-policy"]
    return {name: value for name, _, value in (rule.partition(" ") for rule in policy.split("; "))}


def hash_of(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def test_the_policy_lets_the_pages_own_style_and_script_run_and_nothing_else() -> None:
    page = page_of()
    (style,), (script,) = page.inside("style"), page.inside("script")
    assert rules() == {
        "default-src": "'none'",
        "script-src": hash_of(script),
        "style-src": hash_of(style),
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


def test_the_page_names_no_other_place() -> None:
    text = PAGE.text(None)
    assert "http:" not in text + PAGE.headers["content-security-policy"]
    assert "https:" not in text
    assert "//" not in re.sub(r"(?:^|[ >])// .*$", "", text, flags=re.MULTILINE).replace("%3A//", "")
    for _, attributes in page_of().elements:
        assert not {"style", "src", "action"} & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("href") or "data:").startswith("data:")


def test_the_script_makes_no_html_of_what_it_is_told() -> None:
    (script,) = page_of().inside("script")
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
        assert way not in script


def test_names_are_text_whatever_they_hold() -> None:
    page = page_of(peer_row(HOSTILE))
    assert page.inside("td").count("[31m<script>") == 1
    assert len(page.of("script")) == 1
    assert page.of("img") == []
    assert page.misfits == []


def test_a_slot_is_filled_once_even_when_a_peer_is_named_like_one() -> None:
    row = peer_row(HOSTILE) | {"name": "<!--slot:rows-->", "device": "<!--script-->"}
    page = page_of(row)
    assert "<!--slot:rows-->" in page.inside("td")
    assert len(page.of("tr")) == len(page_of(row | {"name": "x", "device": "y"}).of("tr"))


def test_without_javascript_every_peer_is_a_row_of_a_plain_table() -> None:
    page = page_of(peer_row(HOSTILE))
    heads = [attributes for attributes in page.of("th") if attributes["scope"] == "col"]
    assert len(heads) == len(page.of("th"))
    peers = [head["data-field"] for head in heads][: len(COLUMNS)]
    assert peers == [field for field, _ in COLUMNS]
    assert page.inside("th")[: len(COLUMNS)] == [label for _, label in COLUMNS]
    row = [attributes for attributes in page.of("td") if attributes["data-field"] in peers]
    assert [cell["data-label"] for cell in row] == [label for _, label in COLUMNS]
    assert "silent" in page.inside("span")
    assert page.of("noscript")


def test_the_document_is_whole_and_says_what_it_is() -> None:
    page = page_of(peer_row(HOSTILE))
    assert page.misfits == []
    assert page.open == []
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert [name for name, count in ids.items() if count > 1] == []
    assert page.of("html") == [{"lang": "en"}]
    assert [len(page.of(one)) for one in ("title", "h1", "main")] == [1, 1, 1]
    known = set(ids)
    for _, attributes in page.elements:
        for name in ("for", "aria-labelledby", "aria-describedby", "aria-controls"):
            assert set((attributes.get(name) or "").split()) <= known


def test_the_page_has_words_enough_to_be_read_without_data() -> None:
    page = Read(PAGE.text(None))
    words = "".join(text for tag, text in page.text if tag not in ("style", "script"))
    assert len(" ".join(words.split())) >= 120


@pytest.mark.live
@pytest.mark.asyncio(loop_scope="module")
async def test_the_page_is_served_with_its_policy_and_with_the_peers(stage: Stage) -> None:
    reply = await stage.http.get("/")
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert reply.headers["content-security-policy"] == PAGE.headers["content-security-policy"]
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"
    assert "set-cookie" not in reply.headers
    assert "worker-1" in Read(reply.text).inside("td")
    assert "lg1" not in reply.text.replace("lg1…", "")
    assert (await stage.http.head("/")).content == b""
