"""Mutant: one rule taken out of one module of the core, as a replaced text."""

from __future__ import annotations

from dataclasses import dataclass

from llama_gossip.errors import UsageError


@dataclass(frozen=True, slots=True)
class Mutant:
    name: str
    module: str
    old: str
    new: str
    rule: str  # that it takes out
    oracle: str  # expected to fall
    focus: tuple[str, ...] = ()  # fault kinds under which it shows soonest

    def applied(self, source: str) -> str:
        """Raises UsageError when the line is not there, or not once: the core has moved on."""
        if source.count(self.old) != 1:
            found = source.count(self.old)
            raise UsageError(
                f"the mutant {self.name} no longer fits {self.module}: its line stands there {found} times",
                hint="bring the mutants up to date",
            )
        return source.replace(self.old, self.new)


def of_the_core(
    name: str, module: str, old: str, new: str, *, rule: str, oracle: str, focus: tuple[str, ...] = ()
) -> Mutant:
    return Mutant(name, f"llama_gossip.protocol.{module}", old, new, rule, oracle, focus)
