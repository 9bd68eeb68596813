"""Checkpoints: a model in memory, ready to step, with everything that its engine must know about it.

The law: whatever comes out of here is whole (weights touched, tokenizer present, digest known) or an error
said in one sentence. Nothing is fetched from a hub, nothing unpickled, no code of a model folder runs.
torch and transformers are imported inside the functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_gossip.errors import UsageError

from . import models, tiny_random
from .digest import ModelDigest
from .hub_folder import read_folder
from .loading import DTYPES, check_device, load_module, suitable_dtype
from .model_facts import ModelFacts, folder_facts
from .models import ModelFolder
from .progress import Progress, silent


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint(ModelFacts):
    """A causal language model with its tokenizer."""

    module: Any  # a transformers causal LM: eval mode, no gradients, weights touched; in `dtype`, on `device`


def load_checkpoint(
    spec: str,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    models_dir: Path | None = None,
    progress: Progress | None = None,
) -> Checkpoint:
    """Loads a catalogue name, a `*.gguf` path, a local folder or a cached hub id.

    `dtype` is "fp32", "bf16", "fp16" or None for what suits model and device. Raises ModelUnavailable where
    weights cannot be had or read, ConfigError for an impossible device, UsageError for an unknown dtype.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}", hint="one of " + ", ".join(DTYPES))
    report = silent if progress is None else progress
    check_device(device)
    if spec == tiny_random.NAME:
        return _tiny_random(device, dtype or "fp32")
    folder = models.resolve(spec, models_dir, progress=report)
    return _from_folder(folder, device, dtype, report)


def _from_folder(folder: ModelFolder, device: str, dtype: str | None, progress: Progress) -> Checkpoint:
    hub = read_folder(folder.path)
    chosen = dtype or suitable_dtype(hub, device)
    facts = folder_facts(folder, hub, dtype=chosen, device=device)
    module, notes = load_module(hub, device=device, dtype=DTYPES[chosen], progress=progress)
    return Checkpoint(module=module, **facts.facts() | {"notes": notes})


def _tiny_random(device: str, dtype: str) -> Checkpoint:
    import torch

    module = tiny_random.module().to(device=device)
    for weight in module.parameters():  # weights only: the rope frequencies stay fp32
        weight.data = weight.data.to(getattr(torch, DTYPES[dtype]))
    root = tiny_random.digest()
    return Checkpoint(
        name=tiny_random.NAME,
        module=module.eval().requires_grad_(False),
        tokenizer=tiny_random.tokenizer(),
        chat_template=tiny_random.CHAT_TEMPLATE,
        bos_token=tiny_random.BOS,
        eos_token=tiny_random.EOS,
        bos_id=tiny_random.BOS_ID,
        eos_ids=(tiny_random.EOS_ID,),
        add_bos=False,
        context=tiny_random.CONFIG["max_position_embeddings"],
        digest=ModelDigest(root, root, root, root),
        quantisation="none",
        source_dtype="fp32",
        dtype=dtype,
        device=device,
        parameters=sum(weight.numel() for weight in module.parameters()),
        notes=(tiny_random.NOTE,),
    )
