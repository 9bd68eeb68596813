"""What transformers offers for decoding, as contenders: a raw loop, generate, its own batching."""

from __future__ import annotations

import copy
import inspect
import logging
import threading
from typing import Any

from decoding import Meter, Prompts, Spent, by_threads

RESULT_S = 60.0  # of continuous batching: without one it is dead
PAGE_TOKENS = 16  # of its cache; its default of 256 wastes three quarters on prompts like ours
CACHE_TOKENS = 4096  # 16 rows of the bench


class RawForward:
    """`model.forward` over one padded batch, a loop by hand: nobody can come or go between its steps."""

    def __init__(self, module: Any) -> None:
        self._module = module
        words = inspect.signature(module.forward).parameters  # older ones: past_key_values
        self._cache_word = "cache" if "cache" in words else "past_key_values"

    def run(self, prompts: Prompts, new_tokens: int) -> Spent:
        import torch
        from transformers import DynamicCache

        meter = Meter(len(prompts))
        with torch.inference_mode():
            ids = torch.tensor(prompts, device=self._module.device)
            cache = DynamicCache(config=self._module.config)
            for _ in range(new_tokens):
                out = self._module(
                    input_ids=ids, use_cache=True, logits_to_keep=1, **{self._cache_word: cache}
                )
                ids = out.logits[:, -1].argmax(dim=-1, keepdim=True)
                ids.tolist()  # whoever serves needs them
                for row in range(len(prompts)):
                    meter.tokens(row, 1)
        return meter.spent(len(prompts) * new_tokens)

    def close(self) -> None: ...


class GenerateThreads:
    """One thread and one `generate` with a streamer for each request, as simple servers do."""

    def __init__(self, module: Any) -> None:
        from transformers import GenerationConfig

        self._module = module
        module.generation_config = GenerationConfig()  # no end token: every answer has its full length

    def run(self, prompts: Prompts, new_tokens: int) -> Spent:
        return by_threads(self._answer, prompts, new_tokens)

    def _answer(
        self, row: int, prompt: list[int], new_tokens: int, meter: Meter, lock: threading.Lock
    ) -> None:
        import torch
        from transformers.generation.streamers import BaseStreamer

        class Counted(BaseStreamer):  # type: ignore[misc]
            """A streamer at its cheapest: TextIteratorStreamer decodes as well."""

            prompt_is_out = False

            def put(self, value: Any) -> None:
                if self.prompt_is_out:
                    with lock:
                        meter.tokens(row, 1)
                self.prompt_is_out = True

            def end(self) -> None: ...

        ids = torch.tensor([prompt], device=self._module.device)
        self._module.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=new_tokens,
            pad_token_id=0,
            streamer=Counted(),
        )

    def close(self) -> None: ...


class ContinuousBatching:
    """transformers' own, which changes the attention of its model: it gets a copy."""

    def __init__(self, module: Any) -> None:
        from transformers import ContinuousBatchingConfig, GenerationConfig

        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)  # it misses psutil, loudly
        self._module = copy.deepcopy(module)
        self._manager = self._module.init_continuous_batching(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=-1),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=PAGE_TOKENS,
                num_blocks=CACHE_TOKENS // PAGE_TOKENS,
                max_batch_tokens=CACHE_TOKENS // 4,
                allow_block_sharing=False,
            ),
        )
        self._manager.start()

    def run(self, prompts: Prompts, new_tokens: int) -> Spent:
        meter = Meter(len(prompts))
        names = self._manager.add_requests(
            [list(prompt) for prompt in prompts], max_new_tokens=new_tokens, streaming=True
        )
        rows = {name: row for row, name in enumerate(names)}
        made = dict.fromkeys(names, 0)
        open_rows = len(names)
        while open_rows:
            result = self._manager.get_result(timeout=RESULT_S)
            if result is None:
                raise RuntimeError("transformers' continuous batching gives nothing any more")
            total = len(result.generated_tokens)
            meter.tokens(rows[result.request_id], total - made[result.request_id])
            made[result.request_id] = total
            open_rows -= result.is_finished()
        return meter.spent(len(prompts) * new_tokens)

    def close(self) -> None:
        self._manager.stop(block=True, timeout=RESULT_S)
