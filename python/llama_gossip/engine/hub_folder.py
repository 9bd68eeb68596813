"""Model folders in the hub's layout: what lies in them, checked before anything heavy is imported.

The law: a folder is data. Pickled weights are refused, a folder that asks to run its own code is refused, and
every length in a safetensors header is compared with the file before a loader maps it. No torch here.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llama_gossip.errors import ModelUnavailable

PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
INDEX: Final = "model.safetensors.index.json"
MAX_JSON: Final = 64 << 20  # bytes; the largest tokenizer.json in use has some 33 MB
MAX_HEADER: Final = 100 << 20  # bytes; the safetensors library's own limit
ITEM_BYTES: Final = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
    "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
DTYPE_WORDS: Final = {"F32": "fp32", "F16": "fp16", "BF16": "bf16", "F64": "fp64"}
DEFAULT_CONTEXT: Final = 2048  # tokens, for a config that does not say: the first Llama's
COPY_HINT: Final = "copy the whole model folder again (config.json, tokenizer.json, *.safetensors)"


@dataclass(frozen=True, slots=True)
class HubFolder:
    """Facts of a folder that may be loaded."""

    path: Path
    config: dict[str, Any]
    generation_config: dict[str, Any]
    tokenizer_config: dict[str, Any]
    chat_template: str | None
    parameters: int  # stored weights
    stored_dtype: str  # of most weights: "fp32", "bf16", …

    @property
    def context(self) -> int:
        value = self.config.get("max_position_embeddings", self.config.get("n_positions"))
        return value if isinstance(value, int) and value > 0 else DEFAULT_CONTEXT

    def special(self, role: str) -> str:
        """The text of the "bos" or "eos" token, "" where there is none."""
        value = self.tokenizer_config.get(f"{role}_token")
        if isinstance(value, dict):  # an AddedToken written out
            value = value.get("content")
        return value if isinstance(value, str) else ""

    def end_ids(self) -> tuple[int, ...]:
        """generation_config first, then config: the former lists all that end an answer."""
        for source in (self.generation_config, self.config):
            if ids := _ids(source.get("eos_token_id")):
                return ids
        return ()


def read_folder(path: Path) -> HubFolder:
    """Raises ModelUnavailable with what is missing, broken or refused."""
    if not path.is_dir():
        raise ModelUnavailable(f"there is no model folder {path}", hint="check the path")
    _refuse_pickles(path)
    config = _json(path / "config.json", needed=True)
    tokenizer_config = _json(path / "tokenizer_config.json")
    for name, values in (("config.json", config), ("tokenizer_config.json", tokenizer_config)):
        _refuse_code(path, name, values)
    if "quantization_config" in config:
        raise ModelUnavailable(
            f"{path} is refused: its weights are quantised, which is read from GGUF files only",
            hint="take the model's original weights, or a GGUF of it",
        )
    if not (path / "tokenizer.json").is_file():
        raise ModelUnavailable(f"{path} has no tokenizer.json", hint=COPY_HINT)
    kinds: dict[str, int] = {}
    for file in _weight_files(path):
        for kind, count in _tensors(file):
            kinds[kind] = kinds.get(kind, 0) + count
    if not kinds:
        raise ModelUnavailable(f"the safetensors files of {path} hold no weights", hint=COPY_HINT)
    most = max(kinds, key=lambda kind: kinds[kind])
    return HubFolder(
        path=path,
        config=config,
        generation_config=_json(path / "generation_config.json"),
        tokenizer_config=tokenizer_config,
        chat_template=_template(path, tokenizer_config),
        parameters=sum(kinds.values()),
        stored_dtype=DTYPE_WORDS.get(most, most.lower()),
    )


def _refuse_pickles(path: Path) -> None:
    """Beside safetensors they are only ignored: nothing here ever opens them."""
    names = sorted(file.name for file in path.iterdir())
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles and not any(name.endswith(".safetensors") for name in names):
        raise ModelUnavailable(
            f"{path} is refused: its weights are pickled ({pickles[0]}), and opening a pickle runs its code",
            hint="get the model's *.safetensors, or convert it where you trust it",
        )


def _refuse_code(path: Path, name: str, values: dict[str, Any]) -> None:
    """auto_map names Python files of the folder; an attention named owner/name comes from the hub."""
    attention = str(values.get("attn_implementation", "")) + str(values.get("_attn_implementation", ""))
    asked = "auto_map" if "auto_map" in values else "attn_implementation" if "/" in attention else None
    if asked:
        raise ModelUnavailable(
            f"{path} is refused: its {name} asks to run code of its own ({asked})",
            hint="use a model whose architecture transformers itself has",
        )
    for value in values.values():
        if isinstance(value, dict):
            _refuse_code(path, name, value)


def _weight_files(path: Path) -> list[Path]:
    index = _json(path / INDEX).get("weight_map") if (path / INDEX).exists() else None
    if index is None:
        files = sorted(path.glob("*.safetensors"))
        if not files:
            raise ModelUnavailable(f"{path} has no weights (*.safetensors)", hint=COPY_HINT)
        return files
    names = sorted(set(index.values())) if isinstance(index, dict) else []
    if not names or not all(
        isinstance(n, str) and Path(n).name == n and n.endswith(".safetensors") for n in names
    ):
        raise ModelUnavailable(f"{path / INDEX} names files outside its folder, or none", hint=COPY_HINT)
    for name in names:
        if not (path / name).is_file():
            raise ModelUnavailable(f"{path} lacks {name}, which its index names", hint=COPY_HINT)
    return [path / name for name in names]


def _tensors(file: Path) -> Iterator[tuple[str, int]]:
    """Kind and number of values of each tensor, once the header has been found to fit the file."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        first = stream.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else MAX_HEADER + 1
        if length > min(MAX_HEADER, size - 8):
            raise _broken(file, "its header does not fit into it")
        try:
            header = json.loads(stream.read(length))
            entries = [value for name, value in header.items() if name != "__metadata__"]
            ends = [_checked(entry) for entry in entries]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _broken(file, "its header cannot be read") from error
    if 8 + length + max(ends, default=0) != size:
        raise _broken(file, f"it has {size} bytes where {8 + length + max(ends, default=0)} are due")
    for entry in entries:
        yield entry["dtype"], math.prod(entry["shape"])


def _checked(entry: dict[str, Any]) -> int:
    """The end of a tensor's bytes; raises ValueError where its shape and its bytes differ."""
    begin, end = entry["data_offsets"]
    if not 0 <= begin <= end or end - begin != math.prod(entry["shape"]) * ITEM_BYTES[entry["dtype"]]:
        raise ValueError(entry)
    return int(end)


def _broken(file: Path, what: str) -> ModelUnavailable:
    return ModelUnavailable(f"{file} is damaged: {what}", hint="copy that file again")


def _json(path: Path, *, needed: bool = False) -> dict[str, Any]:
    if not needed and not path.exists():
        return {}
    try:
        if path.stat().st_size > MAX_JSON:
            raise ValueError("too large")
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelUnavailable(
            f"{path.parent} is no model folder: it has no {path.name}", hint=COPY_HINT
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelUnavailable(f"{path} cannot be read as JSON", hint=COPY_HINT) from error
    if not isinstance(value, dict):
        raise ModelUnavailable(f"{path} holds no JSON object", hint=COPY_HINT)
    return value


def _template(path: Path, tokenizer_config: dict[str, Any]) -> str | None:
    """The chat template: a file of its own in newer folders, in tokenizer_config.json in older ones."""
    file = path / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ModelUnavailable(f"{file} cannot be read", hint=COPY_HINT) from error
    value = _json(path / "chat_template.json").get("chat_template", tokenizer_config.get("chat_template"))
    if isinstance(value, list):  # several, by name
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = named.get("default")
    return value if isinstance(value, str) else None


def _ids(value: object) -> tuple[int, ...]:
    listed = value if isinstance(value, list) else [value]
    return tuple(item for item in listed if isinstance(item, int) and not isinstance(item, bool))
