"""Resume: how many tokens of a continued answer differ from the uncut one, by precision and mode.

Answers of smollm2-135m are made in batches of 16 with two threads. Another process, with one, takes each at a
random cut, feeds prompt and prefix in other chunks and batches, and goes on with the same noise. A flip is a
continued token that differs; after one the uncut token is fed, so that every position is judged alone.
Temperatures 0, 0.7 (top_p 0.95) and 1.0 take turns.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from llama_gossip.engine.device import prepare_environment
from llama_gossip.engine.forward import BLOCK_TOKENS, Draw, Forward, Segment, Span
from llama_gossip.engine.sampling import Sampler
from llama_gossip.protocol.messages import GenerationConfig

if TYPE_CHECKING:
    import torch

MODEL: Final = "smollm2-135m"
BATCH: Final = 16
BATCHES: Final = (1, 2, 3, 5, 8)  # of the continuing process
CHUNKS: Final = (5, 16, 37, 64, 200)  # of a prompt, there
LENGTH: Final = 96  # tokens of an answer
STEPS: Final = ((0.0, 1.0), (0.7, 0.95), (1.0, 1.0))  # temperature, top_p
ROOM_BLOCKS: Final = 12  # of a row: prompt, answer, and one for uneven spacing
BARS: Final = {"fp32/exact": 0, "bf16/exact": 0, "q4/exact": 0}
QUESTIONS: Final = (
    "What is the capital of France?",
    "Tell a short story about a fox, with emoji and some words of Japanese.",
    "Explain how a bicycle stays upright.",
    "Write a poem about the sea in winter.",
    "List five uses of a paper clip.",
    "Why is the sky blue? Answer for a child.",
    "Write a Python function that reverses a list.",
    "Give me a recipe for bread.",
)


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer as it was made. `prints`: a hash of the logits behind each token."""

    number: int
    prompt: tuple[int, ...]
    ids: tuple[int, ...] = ()
    prints: tuple[str, ...] = ()

    @property
    def config(self) -> GenerationConfig:
        temperature, top_p = STEPS[self.number % len(STEPS)]
        return GenerationConfig(temperature=temperature, top_p=top_p, seed=self.number, max_tokens=LENGTH)


def lean(dtype: str) -> tuple[Forward, Any]:
    from llama_gossip.engine.llama_load import load_llama, open_llama

    checkpoint = load_llama(MODEL, dtype=dtype)
    forward = open_llama(checkpoint)
    if forward.mode != "exact":
        raise SystemExit(f"{dtype} is not exact on this machine: {forward.numerics}")
    return forward, checkpoint


def fast(dtype: str) -> tuple[Forward, Any]:
    """Packed rows of transformers' modules: the sums of a row depend on its company."""
    from llama_gossip.engine.checkpoint import load_checkpoint
    from llama_gossip.engine.packed import PackedForward

    checkpoint = load_checkpoint(MODEL, dtype=dtype)
    return PackedForward(checkpoint.module, device="cpu", exact=False), checkpoint


MAKERS: Final[dict[str, Callable[[], tuple[Forward, Any]]]] = {
    "fp32/fast": lambda: fast("fp32"),
    "fp32/exact": lambda: lean("fp32"),
    "bf16/fast": lambda: fast("bf16"),
    "bf16/exact": lambda: lean("bf16"),
    "q4/exact": lambda: lean("q4"),
}


class Row:
    """One stream being stepped in a span of its own."""

    def __init__(self, stream: Stream, place: int, known: Sequence[int]) -> None:
        blocks = -(-(len(stream.prompt) + LENGTH) // BLOCK_TOKENS)
        self.stream = stream
        self.span = Span(ROOM_BLOCKS * place + place % 3 // 2, blocks)  # some even, some not
        self.ids = [*stream.prompt, *known]
        self.sampler = Sampler(stream.config, stream.prompt, known)
        self.fed = 0

    @property
    def done(self) -> bool:
        return len(self.ids) == len(self.stream.prompt) + LENGTH

    def segment(self, chunk: int) -> Segment:
        ids = self.ids[self.fed : self.fed + chunk]
        last = self.fed + len(ids) == len(self.ids)
        config = self.stream.config
        draw = Draw(config.temperature, config.seed, len(self.ids)) if last else None
        return Segment(self.span, self.fed, ids, draw)

    def draw(self, logits: torch.Tensor) -> tuple[int, str]:
        values = logits.numpy()
        picked = self.sampler.pick(values, len(self.ids)).token_id
        return picked, hashlib.blake2b(values.tobytes(), digest_size=16).hexdigest()

    def take(self, token_id: int) -> None:
        self.ids.append(token_id)
        self.sampler.seen(token_id)


def step(forward: Forward, rows: Sequence[Row], chunk: int) -> list[tuple[Row, int, str]]:
    """One step of all rows; what was drawn by those that had come to their end."""
    segments = [row.segment(chunk) for row in rows]
    logits = forward.run(segments)
    drawn, number = [], 0
    for row, segment in zip(rows, segments, strict=True):
        row.fed += len(segment.ids)
        if segment.draw is not None:
            drawn.append((row, *row.draw(logits[number])))
            number += 1
    return drawn


def made(forward: Forward, streams: Sequence[Stream]) -> list[Stream]:
    """The uncut answers, end tokens included: an answer is LENGTH tokens."""
    found = []
    for begin in range(0, len(streams), BATCH):
        rows = [Row(stream, place, ()) for place, stream in enumerate(streams[begin : begin + BATCH])]
        prints: dict[int, list[str]] = {row.stream.number: [] for row in rows}
        while going := [row for row in rows if not row.done]:
            for row, token_id, print_ in step(forward, going, 256):
                row.take(token_id)
                prints[row.stream.number].append(print_)
        found += [
            Stream(
                row.stream.number,
                row.stream.prompt,
                tuple(row.ids[len(row.stream.prompt) :]),
                tuple(prints[row.stream.number]),
            )
            for row in rows
        ]
    return found


def continued(forward: Forward, streams: Sequence[Stream]) -> dict[str, int]:
    """Flips, tokens, and how many logits were equal to the bit."""
    chance = random.Random(7)
    waiting = list(streams)
    chance.shuffle(waiting)
    counts = {"flips": 0, "tokens": 0, "equal": 0}
    while waiting:
        size = chance.choice(BATCHES)
        batch, waiting = waiting[:size], waiting[size:]
        chunk = chance.choice(CHUNKS)
        rows = [
            Row(stream, place, stream.ids[: chance.randrange(1, LENGTH // 2)])
            for place, stream in enumerate(batch)
        ]
        while rows:
            for row, token_id, print_ in step(forward, rows, chunk):
                at = len(row.ids) - len(row.stream.prompt)
                counts["flips"] += token_id != row.stream.ids[at]
                counts["equal"] += print_ == row.stream.prints[at]
                counts["tokens"] += 1
                row.take(row.stream.ids[at])
            rows = [row for row in rows if not row.done]
    return counts


def prompts(checkpoint: Any, count: int) -> list[Stream]:
    texts = [
        f"<|im_start|>user\n{QUESTIONS[number % len(QUESTIONS)]}<|im_end|>\n<|im_start|>assistant\n"
        for number in range(count)
    ]
    encode = checkpoint.tokenizer.encode
    return [Stream(n, tuple(encode(text, add_special_tokens=False).ids)) for n, text in enumerate(texts)]


def child(key: str, streams: int, path: Path, threads: int) -> None:
    """Makes the answers where there are none yet, else continues them and prints the counts."""
    prepare_environment()
    import torch

    torch.set_num_threads(threads)
    forward, checkpoint = MAKERS[key]()
    forward.reserve(BATCH * ROOM_BLOCKS)
    if not path.exists():
        answers = made(forward, prompts(checkpoint, streams))
        path.write_text(json.dumps([[s.number, s.prompt, s.ids, s.prints] for s in answers]))
        return
    stored = [
        Stream(number, tuple(prompt), tuple(ids), tuple(prints))
        for number, prompt, ids, prints in json.loads(path.read_text())
    ]
    print(json.dumps(continued(forward, stored)))


def measured(key: str, streams: int) -> dict[str, int]:
    """Both processes of one key."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--child", key, "--streams", str(streams)]
        command += ["--path", str(Path(folder) / "answers.json")]
        subprocess.run([*command, "--threads", "2"], check=True)
        done = subprocess.run([*command, "--threads", "1"], check=True, stdout=subprocess.PIPE, text=True)
    counts: dict[str, int] = json.loads(done.stdout)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="16 answers a key instead of 150")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, the table on stderr")
    parser.add_argument("--keys", nargs="*", choices=MAKERS, default=list(MAKERS))
    parser.add_argument("--streams", type=int, help="answers a key")
    parser.add_argument("--child", choices=MAKERS, help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.streams, options.path, options.threads)
        return 0
    streams = options.streams or (16 if options.quick else 150)
    found = {key: measured(key, streams) for key in options.keys}
    out = sys.stderr if options.json else sys.stdout
    print(f"{'step':12} {'flips':>6} {'tokens':>7} {'bit-equal':>9}", file=out)
    for key, counts in found.items():
        bar = "" if key not in BARS else "held" if counts["flips"] == BARS[key] else "MISSED"
        print(f"{key:12} {counts['flips']:>6} {counts['tokens']:>7} {counts['equal']:>9}  {bar}", file=out)
    if options.json:
        figures = {name: {key: counts[name] for key, counts in found.items()} for name in ("flips", "tokens")}
        figures["bit_equal"] = {key: counts["equal"] for key, counts in found.items()}
        print(json.dumps(figures | {"threads": [2, 1], "cores": os.cpu_count()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
