"""Plain text: what peers say, without what could steer a terminal or turn a page's words around.

The law: whoever shows a name, a reason or an answer to people sends it through here first.
"""

from __future__ import annotations

import unicodedata

JOINERS = "\u200c\u200d"  # harmless format characters that words of several scripts and emoji need
UNSAFE = frozenset(
    {"Cc", "Cf", "Cs", "Zl", "Zp"}
)  # control, format (turns of direction), surrogate, line ends


def clean(text: str, *, keep: str = "\n\t") -> str:
    """Without what could steer a terminal."""
    allowed = keep + JOINERS
    return "".join(c for c in text if c in allowed or unicodedata.category(c) not in UNSAFE)


def one_line(text: str) -> str:
    """For names and reasons, which belong on one line."""
    return clean(text, keep="")
