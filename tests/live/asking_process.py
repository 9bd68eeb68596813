"""A requester in a process of its own, so that it can be killed: asks several questions at once, and waits.

asking_process.py QUESTIONS TOKENS      (its network is the user's own, found by LLAMA_GOSSIP_HOME)
"""

from __future__ import annotations

import asyncio
import sys

from llama_gossip import InferenceNode


async def main(questions: int, tokens: int) -> None:
    async with InferenceNode.open(name="asking") as node:
        asked = [
            node.generate(f"Question {number}.", max_tokens=tokens, ignore_eos=True)
            for number in range(questions)
        ]
        await asyncio.gather(*(generation.complete() for generation in asked))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
