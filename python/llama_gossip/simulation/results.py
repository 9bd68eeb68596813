"""Results: what a campaign has shown, as one object for programs and one table for people."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from llama_gossip.simulation.world import Outcome

MEAN_WASTE = 1.10  # generated / needed tokens over all seeds (I9)
JUDGED_TOKENS = 250  # needed: a seed with fewer has no ratio worth telling


@dataclass(slots=True)
class Results:
    seeds: int = 0
    requests: int = 0
    completed: int = 0
    by_gossip: int = 0
    failed: int = 0
    cancelled: int = 0
    void: int = 0
    tokens_made: int = 0
    tokens_needed: int = 0
    worst_waste: float = 0.0  # of one seed
    failovers: int = 0
    attempts: int = 0
    broadcasts: int = 0
    events: int = 0
    virtual_ms: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    failing: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.requests += outcome.requests
        self.completed += outcome.completed
        self.by_gossip += outcome.by_gossip
        self.failed += outcome.failed
        self.cancelled += outcome.cancelled
        self.void += outcome.void
        self.tokens_made += outcome.tokens_made
        self.tokens_needed += outcome.tokens_needed
        if outcome.tokens_needed >= JUDGED_TOKENS:
            self.worst_waste = max(self.worst_waste, outcome.tokens_made / outcome.tokens_needed)
        self.failovers += outcome.failovers
        self.attempts += outcome.attempts
        self.broadcasts += outcome.broadcasts
        self.events += outcome.events
        self.virtual_ms += outcome.virtual_ms
        self.faults += outcome.faults
        self.codes += outcome.codes
        if outcome.violations:
            self.failing.append(outcome)

    @property
    def waste(self) -> float:
        """Generated / needed tokens over all seeds."""
        return self.tokens_made / self.tokens_needed if self.tokens_needed else 1.0

    @property
    def violations(self) -> int:
        """Of the seeds, and one for a mean waste that is too high."""
        return sum(len(outcome.violations) for outcome in self.failing) + (self.waste > MEAN_WASTE)

    def as_object(self, elapsed_s: float) -> dict[str, object]:
        return {
            "requests": self.requests,
            "completed": self.completed,
            "violations": self.violations,
            "requests_per_s": round(self.requests / elapsed_s, 1) if elapsed_s else 0.0,
            "generated_over_needed": round(self.waste, 4),
            "failovers": self.failovers,
            "failed": self.failed,
            "cancelled": self.cancelled,
            "void": self.void,
            "by_gossip": self.by_gossip,
            "attempts": self.attempts,
            "seeds": self.seeds,
            "worst_generated_over_needed": round(self.worst_waste, 4),
            "codes": dict(sorted(self.codes.items())),
            "faults": dict(sorted(self.faults.items())),
        }

    def table(self, elapsed_s: float) -> str:
        per_request = self.attempts / self.requests if self.requests else 0.0
        rows = [
            ("seeds", f"{self.seeds:,}"),
            ("requests", f"{self.requests:,}"),
            ("  completed", f"{self.completed:,} ({self.by_gossip:,} by gossip)"),
            ("  cancelled by their user", f"{self.cancelled:,}"),
            ("  gone with their requester", f"{self.void:,}"),
            ("  failed", f"{self.failed:,}  {_counts(self.codes)}"),
            ("attempts a request", f"{per_request:.3f}"),
            ("failovers", f"{self.failovers:,}"),
            ("generated / needed tokens", f"{self.waste:.3f} (worst seed {self.worst_waste:.2f})"),
            ("faults that struck", f"{sum(self.faults.values()):,}"),
            ("virtual time", f"{self.virtual_ms / 3_600_000:.1f} h"),
            ("requests a second", f"{self.requests / elapsed_s:.0f}" if elapsed_s else "-"),
            ("violations", f"{self.violations:,}"),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _counts(codes: Counter[str]) -> str:
    return ", ".join(f"{code} {count}" for code, count in codes.most_common() if code != "cancelled")
