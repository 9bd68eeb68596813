"""GGUF files: what the metadata says and where the tensors lie, read through a memory map.

The law: a length that the file claims is believed only after it was found to fit into the file. A damaged or
hostile file ends as ModelUnavailable in one sentence, never in a traceback, a hang or a huge allocation.
Format: little-endian GGUF versions 2 and 3, as ggml's documentation of the format describes it.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from llama_gossip.errors import ModelUnavailable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Value: TypeAlias = int | float | bool | str | list[int] | list[float] | list[bool] | list[str]

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
MAX_KEYS: Final = 4096  # real files have some dozens
MAX_TENSORS: Final = 65_536  # a 400 B model has some thousands
MAX_ELEMENTS: Final = 1 << 22  # of a metadata array; the largest vocabularies have a quarter million merges
MAX_NAME: Final = 256  # bytes of a key or tensor name; ggml itself allows 64 for tensors
MAX_DIMENSIONS: Final = 4  # ggml's own limit
DEFAULT_ALIGNMENT: Final = 32
MAX_ALIGNMENT: Final = 1 << 20

STRING, ARRAY, BOOL = 8, 9, 7
SCALARS: Final[dict[int, str]] = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", BOOL: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """`shape` is row-major, outermost first; the last dimension is stored in blocks of `kind`."""

    name: str
    shape: tuple[int, ...]
    kind: str  # "F32", "Q4_1", …
    offset: int  # from the start of the file
    size: int  # bytes


class GgufFile:
    """An open file: `metadata`, `tensors`, and each tensor's values as fp32."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ModelUnavailable(
                f"cannot read {path}: {_reason(error)}", hint="check the path and its permissions"
            ) from error
        try:
            self.metadata, self.tensors = _Cursor(self._map, path).parse()
        except BaseException:
            self._map.close()
            raise

    def values(self, tensor: GgufTensor) -> NDArray[np.float32]:
        """Dequantised, row-major, fp32."""
        import numpy as np
        from gguf import GGMLQuantizationType, quants

        kind = GGMLQuantizationType[tensor.kind]
        try:
            values = quants.dequantize(self.raw(tensor), kind)
        except NotImplementedError as error:
            raise _unreadable(
                self.path, f"tensor {tensor.name} is {tensor.kind}, which nobody here decodes"
            ) from error
        return np.ascontiguousarray(values, dtype=np.float32).reshape(tensor.shape)

    def raw(self, tensor: GgufTensor) -> NDArray[np.uint8]:
        """The bytes as they lie in the file, [..., bytes of a row]; valid while this object lives."""
        import numpy as np

        flat = np.frombuffer(self._map, dtype=np.uint8, count=tensor.size, offset=tensor.offset)
        return flat.reshape(*tensor.shape[:-1], -1)


def _reason(error: Exception) -> str:
    match error:
        case OSError(strerror=str() as text):
            return text.lower()
        case _:
            return "the file is empty"


def _unreadable(path: Path, what: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"{path} is not a readable GGUF file: {what}",
        hint="fetch or copy the file again, and compare its size",
    )


class _Cursor:
    """Reads forward; every read is checked against the end of the file."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0

    def parse(self) -> tuple[dict[str, Value], dict[str, GgufTensor]]:
        if self.take(4) != MAGIC:
            raise _unreadable(self.path, "it does not begin with GGUF")
        version = self.number("I")
        if version not in VERSIONS:
            raise _unreadable(self.path, f"version {version} is none of {VERSIONS}")
        tensor_count = self.counted("Q", MAX_TENSORS, "tensors")
        key_count = self.counted("Q", MAX_KEYS, "metadata keys")
        metadata: dict[str, Value] = {}
        for _ in range(key_count):
            key = self.text(MAX_NAME)
            metadata[key] = self.value(self.number("I"))
        headers = [self.tensor_header() for _ in range(tensor_count)]
        return metadata, self.placed(headers, metadata.get("general.alignment", DEFAULT_ALIGNMENT))

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            raise _unreadable(self.path, f"it ends after {len(self.data)} bytes, in the middle of its header")
        chunk = self.data[self.at : end]
        self.at = end
        return chunk

    def number(self, code: str) -> Any:
        (value,) = struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))
        return value

    def counted(self, code: str, limit: int, what: str) -> int:
        count = int(self.number(code))
        if count > limit:
            raise _unreadable(self.path, f"it claims {count} {what}, more than {limit}")
        return count

    def text(self, limit: int | None = None) -> str:
        length = self.counted("Q", len(self.data) if limit is None else limit, "bytes of text")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise _unreadable(self.path, "a text in it is not UTF-8") from error

    def value(self, kind: int) -> Value:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            return self.array()
        if kind not in SCALARS:
            raise _unreadable(self.path, f"metadata of unknown type {kind}")
        scalar: Value = self.number(SCALARS[kind])
        return scalar

    def array(self) -> Value:
        kind = self.number("I")
        count = self.counted("Q", MAX_ELEMENTS, "array elements")
        if kind == STRING:
            return [self.text() for _ in range(count)]
        if kind not in SCALARS:
            raise _unreadable(self.path, f"an array of unknown type {kind}")
        code = SCALARS[kind]
        return list(struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize("<" + code))))

    def tensor_header(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.text(MAX_NAME)
        dimensions = self.counted("I", MAX_DIMENSIONS, "dimensions")
        innermost_first = [int(self.number("Q")) for _ in range(dimensions)]
        if not all(
            0 < size <= len(self.data) * 8 for size in innermost_first
        ):  # 8: a weight has a bit at least
            raise _unreadable(self.path, f"tensor {name!r} has the impossible shape {innermost_first}")
        kind, offset = self.number("I"), self.number("Q")
        return name, tuple(reversed(innermost_first)), kind, offset

    def placed(
        self, headers: list[tuple[str, tuple[int, ...], int, int]], alignment: Value
    ) -> dict[str, GgufTensor]:
        if not isinstance(alignment, int) or not 0 < alignment <= MAX_ALIGNMENT:
            raise _unreadable(self.path, f"alignment {alignment!r}")
        start = -(-self.at // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        for name, shape, kind, offset in headers:
            tensor = self.tensor(name, shape, kind, start + offset)
            if name in tensors:
                raise _unreadable(self.path, f"tensor {name!r} stands in it twice")
            tensors[name] = tensor
        return tensors

    def tensor(self, name: str, shape: tuple[int, ...], kind: int, offset: int) -> GgufTensor:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        try:
            block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        except (ValueError, KeyError) as error:
            raise _unreadable(self.path, f"tensor {name!r} has the unknown type {kind}") from error
        if not shape or shape[-1] % block:
            raise _unreadable(self.path, f"tensor {name!r} has the impossible shape {list(shape)}")
        size = prod(shape) // block * block_bytes
        if offset + size > len(self.data):
            raise _unreadable(
                self.path,
                f"it ends after {len(self.data)} bytes, {offset + size} are needed: a broken download?",
            )
        return GgufTensor(name, shape, GGMLQuantizationType(kind).name, offset, size)
