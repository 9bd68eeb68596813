"""What an installer says is quoted short, and without addresses."""

from __future__ import annotations

import pytest

from llama_gossip.engine.installer import complaint


@pytest.mark.parametrize(
    ("said", "due"),
    [
        ("WARNING: Retrying\nERROR: no matching\nERROR: more", "no matching"),
        (
            "  × No solution found:\n  ╰─▶ Because it was not found\nhint: x",
            "No solution found: Because it was not found",
        ),
        ("", "nothing"),
    ],
)
def test_the_installers_first_complaint_is_quoted(said: str, due: str) -> None:
    assert complaint(said) == due


def test_the_installers_complaint_loses_addresses_and_control_characters() -> None:
    said = (
        "Looking in indexes: https://me:secret@host/simple\nERROR: \x1b[31mbad https://me:secret@host/x y\n"
    )
    assert complaint(said) == "[31mbad … y"
