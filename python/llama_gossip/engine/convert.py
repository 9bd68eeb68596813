"""Conversion: a GGUF file becomes a folder in the hub's layout with fp32 weights, once.

The law: the folder appears whole or not at all, and its manifest names the source's sha256, so that a copy of
another file or of an older converter is never taken. The model's digest is of the source and the converter's
version, never of converted bytes. Weights stream tensor by tensor: memory holds one of them at a time.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llama_gossip.errors import ModelUnavailable

from .digest import DigestCache, ModelDigest, root_of
from .gguf_llama import LlamaShape, hub_config, hub_name, in_hub_order, is_tied, quantisation_of, shape_of
from .gguf_reader import GgufFile
from .gguf_tokenizer import build_tokenizer, special_text
from .progress import Progress
from .storage import flush, locked, need_space, partial_folder, publish, reading, storing

CONVERTER_VERSION: Final = 1  # raise it when the same source would give other weights, tokens or template
MANIFEST: Final = "llama-gossip.json"
FOLDER: Final = "converted"  # under the models directory
HEADER_ALIGNMENT: Final = 8  # of the safetensors format
SPARE_BYTES: Final = 32 << 20  # tokenizer, configuration, and what the filesystem itself needs
# Tokens that end an answer besides the file's own eos, by the texts that chat models train them with.
END_TEXTS: Final = ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|im_end|>")


@dataclass(frozen=True, slots=True)
class Converted:
    """A whole converted folder."""

    path: Path
    digest: ModelDigest
    quantisation: str
    source_dtype: str


def source_digest(size: int, sha256: str, template: str | None) -> ModelDigest:
    """A GGUF is one file, so its weights and tokenizer share a root; the template has its own."""
    root = root_of([("converter", CONVERTER_VERSION, ""), ("gguf", size, sha256)])
    text = (template or "").encode()
    entry = ("chat_template", len(text), hashlib.sha256(text).hexdigest())
    return ModelDigest(root, root, root, root_of([entry]))


def converted(
    source: Path, models_dir: Path, *, cache: DigestCache, verify: bool, progress: Progress
) -> Converted:
    """The converted folder of a GGUF file, made now where there is none. Other processes wait."""
    with reading(source):
        sha256 = cache.sha256(source, verify=verify, progress=progress)
    cache.save()
    name = f"{sha256[:32]}-v{CONVERTER_VERSION}"
    parent = models_dir / FOLDER
    if found := _existing(parent / name, sha256, cache, verify):
        return found
    with locked(parent, name, progress):
        if found := _existing(parent / name, sha256, cache, verify):
            return found
        with partial_folder(parent, name) as made, storing(parent, f"convert {source.name}"):
            _convert(source, sha256, made, progress)
            if cache.sha256(source) != sha256:
                raise ModelUnavailable(f"{source} changed while it was converted", hint="start again")
            publish(made, parent / name)
    found = _existing(parent / name, sha256, cache, verify=False)
    cache.save()
    if found is None:
        raise ModelUnavailable(
            f"{parent / name} changed while it was being made",
            hint="see what else writes there, then start again",
        )
    return found


def _existing(folder: Path, sha256: str, cache: DigestCache, verify: bool) -> Converted | None:
    """The folder if it is whole: of this source and converter, every file's bytes as they were written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["source"]["sha256"] != sha256 or manifest["converter"] != CONVERTER_VERSION:
            return None
        for name, (size, value) in manifest["files"].items():
            file = folder / name
            if file.stat().st_size != size or cache.sha256(file, verify=verify) != value:
                return None
        cache.save()
        digest = ModelDigest(*(bytes.fromhex(manifest["digest"][p]) for p in ModelDigest.__slots__))
        return Converted(folder, digest, str(manifest["quantisation"]), str(manifest["source_dtype"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _convert(source: Path, sha256: str, folder: Path, progress: Progress) -> None:
    file = GgufFile(source)
    shape = shape_of(file)
    tokenizer = build_tokenizer(file.metadata)
    weights = sum(math.prod(tensor.shape) for tensor in file.tensors.values()) * 4
    need_space(folder, weights + SPARE_BYTES, f"convert {source.name}")
    _write_weights(file, shape, folder / "model.safetensors", progress)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    words = special_words(file)
    _write_json(folder / "config.json", hub_config(file, shape) | words.ids)
    _write_json(folder / "generation_config.json", words.ids | {"eos_token_id": words.end_ids})
    _write_json(folder / "tokenizer_config.json", words.config)
    for path in folder.iterdir():
        flush(path)
    _write_json(folder / MANIFEST, _manifest(file, source, sha256, folder, words.template))
    flush(folder / MANIFEST)
    flush(folder)


def _write_weights(file: GgufFile, shape: LlamaShape, target: Path, progress: Progress) -> None:
    import numpy as np

    tensors = [file.tensors[name] for name in shape.expected(tied=is_tied(file))]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        size = math.prod(tensor.shape) * 4
        header[hub_name(tensor.name)] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [end, end + size],
        }
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    done = 0
    with target.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            values = np.ascontiguousarray(in_hub_order(tensor.name, file.values(tensor), shape), dtype="<f4")
            done += out.write(values.data.cast("B"))
            progress("convert", done, end)
        out.flush()
        os.fsync(out.fileno())


@dataclass(frozen=True, slots=True)
class SpecialWords:
    ids: dict[str, Any]  # bos_token_id, eos_token_id, pad_token_id
    end_ids: list[int]
    config: dict[str, Any]  # tokenizer_config.json
    template: str | None


def special_words(file: GgufFile) -> SpecialWords:
    metadata = file.metadata
    ids: dict[str, Any] = {}
    template = metadata.get("tokenizer.chat_template")
    config: dict[str, Any] = {
        "add_bos_token": metadata.get(
            "tokenizer.ggml.add_bos_token", metadata["tokenizer.ggml.model"] == "llama"
        ),
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
    }
    if isinstance(template, str):
        config["chat_template"] = template
    for ours, role in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        if word := special_text(metadata, role):
            config[f"{ours}_token"] = word[1]
            if ours != "unk":
                ids[f"{ours}_token_id"] = word[0]
    return SpecialWords(ids, _end_ids(file), config, template if isinstance(template, str) else None)


def _end_ids(file: GgufFile) -> list[int]:
    named = [word[0] for role in ("eos", "eot", "eom") if (word := special_text(file.metadata, role))]
    tokens = file.metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list), "the tokenizer was built from it"
    by_text = [index for index, text in enumerate(tokens) if text in END_TEXTS]
    return list(dict.fromkeys([*named, *by_text]))


def _manifest(
    file: GgufFile, source: Path, sha256: str, folder: Path, template: str | None
) -> dict[str, Any]:
    quantisation, dtype = quantisation_of(file)
    size = source.stat().st_size
    digest = source_digest(size, sha256, template)
    hashes = DigestCache(None)
    return {
        "converter": CONVERTER_VERSION,
        "source": {"name": source.name, "size": size, "sha256": sha256},
        "quantisation": quantisation,
        "source_dtype": dtype,
        "digest": {part: getattr(digest, part).hex() for part in ModelDigest.__slots__},
        "files": {p.name: [p.stat().st_size, hashes.sha256(p)] for p in sorted(folder.iterdir())},
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
