"""Model facts: what is known of a model beside its weights. Constant.

The law: equal facts of a folder for every way of computing it: one tokenizer, one template, one digest.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from .digest import ModelDigest
from .hub_folder import HubFolder
from .loading import adds_bos, load_tokenizer, token_id
from .models import ModelFolder

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Raw prompts: encode with `add_special_tokens=False`, then put `bos_id` in front where `add_bos` says
    so. Rendered templates already contain what they need.
    """

    name: str
    tokenizer: Tokenizer
    chat_template: str | None  # jinja2
    bos_token: str  # "" where the model has none, as templates expect
    eos_token: str
    bos_id: int | None
    eos_ids: tuple[int, ...]  # any of these ends an answer
    add_bos: bool
    context: int  # tokens, as the model was trained
    digest: ModelDigest
    quantisation: str  # of the source: "q4_1", "none"
    source_dtype: str  # of the source's unquantised weights: "fp32", "bf16", "fp16"
    dtype: str  # of the steps
    device: str
    parameters: int  # weights, tied ones counted once
    notes: tuple[str, ...] = ()  # sentences for the user

    @property
    def model_digest(self) -> bytes:
        return self.digest.root

    def facts(self) -> dict[str, Any]:
        """By name, for a model with the same ones."""
        return {field.name: getattr(self, field.name) for field in fields(ModelFacts)}


def folder_facts(folder: ModelFolder, hub: HubFolder, *, dtype: str, device: str) -> ModelFacts:
    """Raises ModelUnavailable where the tokenizer cannot be read."""
    tokenizer = load_tokenizer(hub)
    bos, eos = hub.special("bos"), hub.special("eos")
    bos_id, eos_id = token_id(tokenizer, bos), token_id(tokenizer, eos)
    return ModelFacts(
        name=folder.name,
        tokenizer=tokenizer,
        chat_template=hub.chat_template,
        bos_token=bos,
        eos_token=eos,
        bos_id=bos_id,
        eos_ids=hub.end_ids() or (() if eos_id is None else (eos_id,)),
        add_bos=adds_bos(hub, tokenizer, bos_id),
        context=hub.context,
        digest=folder.digest,
        quantisation=folder.quantisation,
        source_dtype=folder.source_dtype,
        dtype=dtype,
        device=device,
        parameters=hub.parameters,
    )
