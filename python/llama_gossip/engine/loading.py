"""Loading: from a checked folder to a module and a tokenizer in memory.

The law: only the folder's own files are opened, no code of it runs, nothing is fetched; the module comes out
in eval mode, without gradients, with every weight read once, and with fp32 rope frequencies in any dtype.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from llama_gossip.errors import ConfigError, ModelUnavailable

from .hub_folder import COPY_HINT, HubFolder
from .progress import Progress

if TYPE_CHECKING:
    from tokenizers import Tokenizer

DTYPES: Final = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # our word: torch's
FP32_PARAMETERS: Final = 200_000_000  # on a CPU, models up to here are fast and small enough in fp32
PAGE_BYTES: Final = 4096  # one read in each page brings a mapped weight into memory


def suitable_dtype(facts: HubFolder, device: str) -> str:
    """On a CPU fp32 for small models (exact, and quick enough), else bf16. On a GPU the stored half type,
    else bf16, and fp16 where the GPU computes no bf16."""
    if device == "cpu":
        return "fp32" if facts.parameters <= FP32_PARAMETERS else "bf16"
    return "fp16" if facts.stored_dtype == "fp16" or not _computes_bf16(device) else "bf16"


def _computes_bf16(device: str) -> bool:
    import torch

    return bool(torch.cuda.get_device_capability(device)[0] >= 8)


def check_device(device: str) -> None:
    """Raises ConfigError for a device that torch does not have here."""
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"torch has no device {device!r} here", hint="use --device cpu") from error


def load_module(
    facts: HubFolder, *, device: str, dtype: str, progress: Progress
) -> tuple[Any, tuple[str, ...]]:
    """The folder's transformers causal LM, and notes for the user.

    Raises ModelUnavailable where the folder is no such model, or lacks weights.
    """
    import torch
    from transformers import AutoModelForCausalLM

    _check_architecture(facts)
    progress("load", 0, facts.parameters)
    try:
        with _quiet():
            module, report = AutoModelForCausalLM.from_pretrained(
                str(facts.path),
                dtype=getattr(torch, dtype),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                **own_attention(facts.config),
            )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError) as error:
        raise _unusable(facts, _first_line(error)) from error
    for kind in ("missing", "mismatched"):
        if names := sorted(str(name) for name in report.get(f"{kind}_keys", ())):
            raise _unusable(facts, f"{len(names)} weights are {kind}, {names[0]} first")
    try:
        module = module.to(device).eval().requires_grad_(False)
    except torch.OutOfMemoryError:
        raise ModelUnavailable(
            f"the {facts.parameters} weights of {facts.path} do not fit {device} in {dtype}",
            hint="end what else uses it, or serve a smaller model",
        ) from None
    _touch(module, facts.parameters, progress)
    unused = len(report.get("unexpected_keys", ()))
    return module, ((f"{unused} stored weights are no part of the model and stay unused",) if unused else ())


def own_attention(config: Mapping[str, Any]) -> dict[str, str]:
    """How transformers is asked to attend: some of its versions leave soft caps out unless it is eager."""
    return {"attn_implementation": "eager"} if config.get("attn_logit_softcapping") else {}


@contextmanager
def _quiet() -> Iterator[None]:
    """The library's own bar would draw over ours, and its load report repeats what we raise."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _check_architecture(facts: HubFolder) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = facts.config.get("model_type")
    if not isinstance(kind, str) or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelUnavailable(
            f"{facts.path} holds a model of type {kind!r}, which cannot be run here",
            hint="upgrade transformers, or serve another model",
        )


def _touch(module: Any, total: int, progress: Progress) -> None:
    """Reads one value of each page, so that the first request does not wait for the disk."""
    done = 0
    for weight in module.parameters():
        weight.detach().reshape(-1)[:: max(1, PAGE_BYTES // weight.element_size())].sum().item()
        done += weight.numel()
        progress("load", min(done, total), total)
    progress("load", total, total)


def load_tokenizer(facts: HubFolder) -> Tokenizer:
    from tokenizers import Tokenizer

    file = facts.path / "tokenizer.json"
    try:
        made = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception for every broken file
        raise ModelUnavailable(f"{file} is no tokenizer: {_first_line(error)}", hint=COPY_HINT) from error
    made.no_truncation()  # a file may carry limits of somebody's training
    made.no_padding()
    return made


def token_id(tokenizer: Tokenizer, text: str) -> int | None:
    found: int | None = tokenizer.token_to_id(text) if text else None
    return found


def adds_bos(facts: HubFolder, tokenizer: Tokenizer, bos_id: int | None) -> bool:
    """Whether raw text begins with BOS: as tokenizer_config says, else as tokenizer.json does."""
    if bos_id is None:
        return False
    said = facts.tokenizer_config.get("add_bos_token")
    if isinstance(said, bool):
        return said
    ids = tokenizer.encode("a", add_special_tokens=True).ids
    return bool(ids) and ids[0] == bos_id


def _unusable(facts: HubFolder, what: str) -> ModelUnavailable:
    return ModelUnavailable(f"{facts.path} cannot be loaded: {what}", hint=COPY_HINT)


def _first_line(error: Exception) -> str:
    text = next(iter(str(error).splitlines()), type(error).__name__)
    return "".join(char for char in text if char.isprintable())[:200]
