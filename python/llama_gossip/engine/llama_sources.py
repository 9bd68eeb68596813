"""Where a Llama's weights come from: a GGUF file, a model folder, or tensors in memory, by the hub's names.

The law: `values` are the model's weights in the hub's order, whatever the source; `blocks` are the integers
of a GGUF as they lie in it. Only tensors that are asked for are read, one at a time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from llama_gossip.errors import ModelUnavailable

from .gguf_llama import hub_config, hub_name, in_hub_order, is_tied, quantisation_of, shape_of
from .gguf_reader import GgufFile
from .hub_folder import COPY_HINT, INDEX
from .llama_config import LlamaConfig, llama_config
from .packing import PACKED_KINDS, Blocks, blocks_of

if TYPE_CHECKING:
    import torch

EMBEDDING: Final = "model.embed_tokens"
NORM: Final = "model.norm"
HEAD: Final = "lm_head"


class Source(Protocol):
    @property
    def config(self) -> LlamaConfig: ...

    @property
    def quantisation(self) -> str:
        """Of most weights: "q4_1", or "none"."""

    def values(self, name: str) -> torch.Tensor:
        """Of `model.layers.0.mlp.up_proj`, say: as stored, or fp32 where they were quantised."""

    def blocks(self, name: str) -> tuple[str, Blocks] | None:
        """Kind and blocks where they can be used as they are; q and k rows in pairs (`paired`)."""

    def is_quantised(self, name: str) -> bool: ...


class GgufSource:
    """Raises ModelUnavailable for what is no plain Llama."""

    def __init__(self, path: Path) -> None:
        self.file = GgufFile(path)
        self._shape = shape_of(self.file)
        self.config = llama_config(hub_config(self.file, self._shape))
        self.quantisation = quantisation_of(self.file)[0]
        tied = is_tied(self.file)
        names = self._shape.expected(tied=tied)
        self._tensors = {hub_name(name).removesuffix(".weight"): self.file.tensors[name] for name in names}

    def values(self, name: str) -> torch.Tensor:
        import torch

        tensor = self._tensors[name]
        found = self.blocks(name)  # gguf's own decoder gives the same bits and takes ten times as long
        values = self.file.values(tensor) if found is None else found[1].values().numpy()
        ordered = in_hub_order(tensor.name, values, self._shape)
        return torch.from_numpy(ordered if ordered.flags.writeable else ordered.copy())

    def blocks(self, name: str) -> tuple[str, Blocks] | None:
        tensor = self._tensors[name]
        if tensor.kind not in PACKED_KINDS:
            return None
        return tensor.kind, blocks_of(self.file.raw(tensor), tensor.kind)

    def is_quantised(self, name: str) -> bool:
        return self._tensors[name].kind not in ("F32", "F16", "BF16")


class PlainSource:
    """Unquantised tensors that are there or that `read` gets."""

    quantisation = "none"

    def __init__(self, config: LlamaConfig, tensors: Mapping[str, torch.Tensor]) -> None:
        self.config = config
        self._tensors = tensors

    def values(self, name: str) -> torch.Tensor:
        return self._tensors[f"{name}.weight"]

    def blocks(self, name: str) -> tuple[str, Blocks] | None:
        return None

    def is_quantised(self, name: str) -> bool:
        return False


class FolderTensors(Mapping[str, "torch.Tensor"]):
    """The *.safetensors of a checked model folder, opened by memory map."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        index = folder / INDEX
        files = (
            sorted(set(json.loads(index.read_text())["weight_map"].values()))
            if index.exists()
            else sorted(path.name for path in folder.glob("*.safetensors"))
        )
        self._folder = folder
        self._homes: dict[str, Any] = {}
        for file in files:
            opened: Any = safe_open(str(folder / file), "pt")
            names: list[str] = opened.keys()
            self._homes |= dict.fromkeys(names, opened)

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._homes:
            raise ModelUnavailable(f"{self._folder} lacks {name}", hint=COPY_HINT)
        tensor: torch.Tensor = self._homes[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Any:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)


def folder_source(folder: Path, config: Mapping[str, Any]) -> PlainSource:
    """Raises Unsuitable for another architecture, ModelUnavailable for a weight that is missing."""
    return PlainSource(llama_config(config), FolderTensors(folder))


def paired(values: torch.Tensor, head_dim: int) -> torch.Tensor:
    """The hub's rows of q or k, two halves a head, in the order that rope turns them as complex numbers."""
    halves = values.view(-1, 2, head_dim // 2, values.shape[-1])
    return halves.transpose(1, 2).reshape(values.shape)
