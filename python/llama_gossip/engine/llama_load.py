"""Loading a lean Llama: straight from a GGUF file or a model folder to a checked Forward, no transformers.

The law: `auto` is four bits for a 4-bit file, fp32 for small checkpoints, bf16 otherwise; what is asked for
and cannot be had here is Unsuitable with its reason, so that the caller takes transformers' way or says why
not. The digest is the source's own: one model whatever it is computed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from . import models, tiny_random
from .checkpoint import Checkpoint, load_checkpoint
from .convert import source_digest, special_words
from .gguf_llama import quantisation_of
from .gguf_reader import GgufFile
from .gguf_tokenizer import build_tokenizer
from .hub_folder import read_folder
from .llama_check import check_model, is_exact, probed_pad
from .llama_config import Unsuitable, llama_config
from .llama_sources import GgufSource, PlainSource, Source, folder_source
from .llama_step import LlamaForward
from .llama_weights import DTYPES, read_weights
from .loading import FP32_PARAMETERS
from .model_facts import ModelFacts, folder_facts
from .models import ModelFile, ModelFolder
from .progress import Progress, silent

AUTO: Final = "auto"
DEVICE: Final = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaCheckpoint(ModelFacts):
    """What a Checkpoint is, with weights still where they lie."""

    source: Callable[[], Source]


def load_llama(
    spec: str,
    *,
    dtype: str | None = None,
    models_dir: Path | None = None,
    progress: Progress | None = None,
) -> LlamaCheckpoint:
    """`dtype` is a key of DTYPES; None or "auto": what suits the source.

    Raises Unsuitable for what is no plain Llama or another dtype, ModelUnavailable as `models.resolve` does.
    """
    asked = None if dtype == AUTO else dtype
    if asked is not None and asked not in DTYPES:
        raise Unsuitable(f"its steps know no {asked}")
    if spec == tiny_random.NAME:
        return of_module(load_checkpoint(spec, dtype="fp32"), asked or "fp32")  # it has no files
    match models.locate(spec, models_dir, progress=progress or silent):
        case ModelFile() as file:
            return _of_file(file, asked)
        case ModelFolder() as folder:
            return _of_folder(folder, asked)


def _of_file(found: ModelFile, asked: str | None) -> LlamaCheckpoint:
    source = GgufSource(found.path)
    file = source.file
    words = special_words(file)
    _, source_dtype = quantisation_of(file)
    parameters = sum(math.prod(tensor.shape) for tensor in file.tensors.values())
    bos_id = words.ids.get("bos_token_id")
    return LlamaCheckpoint(
        name=found.name,
        source=lambda: source,
        tokenizer=build_tokenizer(file.metadata),
        chat_template=words.template,
        bos_token=words.config.get("bos_token", ""),
        eos_token=words.config.get("eos_token", ""),
        bos_id=bos_id,
        eos_ids=tuple(words.end_ids),
        add_bos=bos_id is not None and words.config["add_bos_token"] is True,
        context=_context(file),
        digest=source_digest(found.size, found.sha256, words.template),
        quantisation=source.quantisation,
        source_dtype=source_dtype,
        dtype=asked or suited(source.quantisation, parameters),
        device=DEVICE,
        parameters=parameters,
    )


def _context(file: GgufFile) -> int:
    value = file.metadata["llama.context_length"]
    assert isinstance(value, int), "the configuration was made of it"
    return value


def _of_folder(folder: ModelFolder, asked: str | None) -> LlamaCheckpoint:
    hub = read_folder(folder.path)
    llama_config(hub.config)  # Unsuitable before anything is read
    dtype = asked or suited(folder.quantisation, hub.parameters)
    facts = folder_facts(folder, hub, dtype=dtype, device=DEVICE)
    return LlamaCheckpoint(source=lambda: folder_source(folder.path, hub.config), **facts.facts())


def of_module(checkpoint: Checkpoint, dtype: str) -> LlamaCheckpoint:
    """The lean form of a Llama that is in memory. Raises Unsuitable."""
    module = checkpoint.module
    config = llama_config(module.config.to_dict())
    return LlamaCheckpoint(
        source=lambda: PlainSource(config, module.state_dict()), **checkpoint.facts() | {"dtype": dtype}
    )


def suited(quantisation: str, parameters: int) -> str:
    """What `auto` is on a CPU: the bits that are there, else the most that stay quick."""
    if quantisation.startswith("q4"):
        return "q4"
    return "fp32" if parameters <= FP32_PARAMETERS else "bf16"


def open_llama(checkpoint: LlamaCheckpoint, *, exact: bool = True) -> LlamaForward:
    """Weights packed, the model checked, and exactness seen or not claimed. Raises EngineError.

    `exact` asks for it, which makes sense where the environment pins the kernels; otherwise the padding that
    bf16 and fp32 may need is spared.
    """
    source = checkpoint.source()
    weights = read_weights(source, checkpoint.dtype)
    pad = probed_pad(weights, checkpoint.dtype) if exact else None
    forward = LlamaForward(source.config, weights, checkpoint.dtype, pad=pad or 0)
    check_model(forward, source)
    if pad is not None and is_exact(forward):
        forward.mode = "exact"
    return forward
