"""Waste: the tokens that honest engines make for honest requesters, and how many of them were needed (I9).

The law: a token is needed once, by the first engine that makes it for an attempt which is still the
requester's own. All else is waste, whoever brought it about: what is made again because it was lost on its
way, and what is made after its attempt has ended (failed over, cancelled, finished, or its requester has said
goodbye). What becomes of an answer later makes no difference: its user may cancel it in the end, and what was
made before was needed all the same. Not counted at all is what is made after the requester's process was
killed: nobody is left who could tell, and I5 bounds it by the lease.
"""

from __future__ import annotations

from llama_gossip.simulation.history import Story

WASTE_SEED = 1.35  # made / needed tokens of one seed
# Needed. Where all answers go over gossip and the topic is split for half a minute, two workers in turn make
# each for a requester that hears neither: 516 tokens were the most seen.
FEW_TOKENS = 2_000


class Waste:
    def __init__(self) -> None:
        self.made = 0
        self.needed = 0

    def made_for(self, story: Story, attempt: int, start: int, end: int) -> None:
        """An engine has made the tokens start … end - 1 of this answer."""
        if story.void:
            return
        self.made += end - start
        if attempt not in story.fenced:
            self.needed += max(0, end - max(start, story.made))
            story.made = max(story.made, end)

    @property
    def too_high(self) -> bool:
        return self.made - self.needed > (WASTE_SEED - 1) * max(self.needed, FEW_TOKENS)
