"""Head: how often the two-stage head's pick is not the one that exact logits would have given.

States behind the tokens of smollm2-135m's own answers meet draws of many seeds at temperatures 0 to 1.5.
Exact logits are the file's own head in fp32 over the same state. `missed` counts draws without a filter, of
which the second stage must have scored the winner; `moved_F` draws with the filter F, whose border the coarse
rest has moved.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from llama_gossip.engine.device import prepare_environment
from llama_gossip.engine.forward import Draw, Segment, Span
from llama_gossip.engine.llama_head import TwoStageHead
from llama_gossip.engine.llama_load import load_llama, open_llama
from llama_gossip.engine.sampling import Float32, Sampler
from llama_gossip.protocol.messages import GenerationConfig

if TYPE_CHECKING:
    import torch

    from llama_gossip.engine.llama_step import LlamaForward

MODEL: Final = "smollm2-135m"
TEMPERATURES: Final = (0.0, 0.3, 0.7, 1.0, 1.25, 1.5)
FILTERS: Final[tuple[dict[str, Any], ...]] = ({"top_p": 0.9}, {"top_k": 40}, {"min_p": 0.05})
ROWS: Final = 16
SPAN_BLOCKS: Final = 8
TEXTS: Final = ("Once upon a time, a fox", "The reasons for the war were", "def reverse(items):", "12 + 7 =")


class Recording(TwoStageHead):
    """Keeps the states that it was given."""

    def __init__(self, forward: LlamaForward) -> None:
        exact = forward.weights.exact_head
        if exact is None:
            raise SystemExit("this head has one stage")
        super().__init__(forward.weights.head, exact)
        self.states: list[torch.Tensor] = []

    def __call__(self, hidden: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
        self.states.append(hidden[: len(draws)].clone())
        return super().__call__(hidden, draws)


def states_of_answers(count: int) -> tuple[Recording, torch.Tensor, torch.Tensor]:
    """The head, `count` states of sampled answers, and the fp32 matrix of the exact head."""
    import torch

    checkpoint = load_llama(MODEL, dtype="q4")
    forward = open_llama(checkpoint)
    forward._head = head = Recording(forward)
    forward.reserve(ROWS * SPAN_BLOCKS)
    encode = checkpoint.tokenizer.encode
    rows = [encode(TEXTS[n % len(TEXTS)], add_special_tokens=False).ids for n in range(ROWS)]
    fed = [0] * ROWS
    while sum(len(state) for state in head.states) < count:
        draws = [Draw(1.0, number, len(ids)) for number, ids in enumerate(rows)]
        logits = forward.run(
            [
                Segment(
                    Span(number * SPAN_BLOCKS, SPAN_BLOCKS), fed[number], ids[fed[number] :], draws[number]
                )
                for number, ids in enumerate(rows)
            ]
        )
        for number, ids in enumerate(rows):
            fed[number] = len(ids)
            config = GenerationConfig(temperature=1.0, seed=number, max_tokens=1)
            ids.append(Sampler(config, ids).pick(logits[number].numpy(), len(ids)).token_id)
    exact = forward.weights.exact_head
    assert exact is not None, "Recording has seen it"
    return head, torch.cat(head.states)[:count], exact(torch.arange(forward.vocabulary))


def missed(states: int, draws: int) -> dict[str, Any]:
    """Draws whose pick differs, and how many there were."""
    import torch

    with torch.inference_mode():
        head, hidden, table = states_of_answers(states)
        counts: Counter[str] = Counter()
        largest = 0.0
        for number, state in enumerate(hidden):
            exact = (table @ state).numpy()
            for seed in range(draws):
                temperature = TEMPERATURES[seed % len(TEMPERATURES)]
                draw = Draw(temperature, 1000 * number + seed, number)
                logits = head(state[None], [draw])[0].numpy()
                largest = max(largest, float(abs(logits - exact).max()))
                counts["draws"] += 1
                counts["missed"] += _differ(logits, exact, draw, {})
                options = FILTERS[seed // len(TEMPERATURES) % len(FILTERS)]
                counts["filtered_draws"] += 1
                counts["moved_" + "_".join(options)] += _differ(logits, exact, draw, options)
            head.states.clear()
    return {"missed": 0} | counts | {"coarse_logits_off_by_at_most": largest}


def _differ(logits: Float32, exact: Float32, draw: Draw, options: dict[str, Any]) -> bool:
    unfiltered: dict[str, Any] = {"top_p": 1.0}
    config = GenerationConfig(temperature=draw.temperature, seed=draw.seed, **unfiltered | options)
    sampler = Sampler(config, ())
    return sampler.pick(logits, draw.position) != sampler.pick(exact, draw.position)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="900 draws instead of 10 260")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    prepare_environment()
    figures = missed(50 if options.quick else 570, 18)
    print(json.dumps(figures) if options.json else figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
