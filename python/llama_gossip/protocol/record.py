"""Record: the dataclass of the protocol's values, whose fields the type checker keeps from being set.

To a type checker `@record(frozen=True, slots=True)` is `dataclasses.dataclass`; at run time all may be set.
A frozen `__init__` goes through `object.__setattr__` for each field and takes three times as long, which was
a seventh of what a simulated network costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from dataclasses import dataclass as record
else:
    from collections.abc import Callable
    from dataclasses import dataclass

    T = TypeVar("T")

    def record(*, frozen: bool, slots: bool) -> Callable[[type[T]], type[T]]:
        assert frozen, "a value that changes is no record"
        return dataclass(slots=slots, unsafe_hash=True)


__all__ = ["record"]
