"""Hub: a model of the hub that is not on this machine yet, fetched into the hub's own local cache.

The law: only what a user asked to be fetched by name, and of that only what a model folder may hold: weights
in safetensors, JSON, a template. No code and no pickle is downloaded, and whatever stands in the way is one
sentence with a remedy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from llama_gossip.errors import ModelUnavailable

from .progress import Progress
from .storage import cannot_store, need_space

WANTED: Final = (".safetensors", ".json", ".jinja")
OTHER_WEIGHTS: Final = ("consolidated",)  # the same weights once more, in their maker's own layout
HTTP_LIBRARIES: Final = ("httpx", "httpcore", "requests", "urllib3")  # by release of the hub's own
ANSWER_S: Final = 10.0  # of the hub, before it counts as out of reach


def fetch_from_hub(repository: str, folder: Path, *, progress: Progress) -> Path:
    """The snapshot's folder in the hub's cache. `folder`: what may be filled by hand instead.

    Raises ModelUnavailable where the hub, the model or the room is not to be had, ConfigError where the cache
    cannot be written.
    """
    from huggingface_hub import constants, hf_hub_download

    cache = Path(constants.HF_HUB_CACHE)
    by_hand = f"put config.json, tokenizer.json and *.safetensors of {repository} into {folder}"
    with _in_words(repository, cache, by_hand):
        sizes = _listed(repository)
        total = sum(sizes.values())
        cache.mkdir(parents=True, exist_ok=True)
        need_space(cache, total, f"fetch {repository}")
        count = counter(progress, total)
        paths = [
            Path(hf_hub_download(repository, name, revision="main", etag_timeout=ANSWER_S, tqdm_class=count))
            for name in sorted(sizes)
        ]
    progress("fetch", total, total)
    return paths[0].parent


@contextmanager
def _in_words(repository: str, cache: Path, by_hand: str) -> Iterator[None]:
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        yield
    except GatedRepoError as error:
        raise ModelUnavailable(
            f"{repository} is given only to users of the hub who accepted its licence",
            hint=f"accept it there and set HF_TOKEN, or {by_hand}",
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelUnavailable(
            f"the hub has no model {repository}, or a private one", hint="check the name, or set HF_TOKEN"
        ) from error
    except OSError as error:  # of the disk, or the hub's: what it refuses, offline mode
        if error.errno is not None and not isinstance(error, HfHubHTTPError | ConnectionError):
            raise cannot_store(cache, f"fetch {repository}", error) from error
        raise _out_of_reach(repository, error, by_hand) from error
    except Exception as error:  # an address that is silent is told by the HTTP library below
        if not _is_http(error):
            raise
        raise _out_of_reach(repository, error, by_hand) from error


def _listed(repository: str) -> dict[str, int]:
    """Names and bytes of the files that are wanted. Raises ModelUnavailable where they are no model."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(repository, files_metadata=True, timeout=ANSWER_S)
    sizes = {
        file.rfilename: int(file.size or 0) for file in info.siblings or () if _is_wanted(file.rfilename)
    }
    if "config.json" not in sizes:
        raise ModelUnavailable(f"{repository} has no config.json on the hub", hint="choose another model")
    if not any(name.endswith(".safetensors") for name in sizes):
        raise ModelUnavailable(
            f"{repository} has no weights in safetensors on the hub", hint="choose a model that has"
        )
    return sizes


def _is_wanted(name: str) -> bool:
    return "/" not in name and name.endswith(WANTED) and not name.startswith(OTHER_WEIGHTS)


def _is_http(error: Exception) -> bool:
    return type(error).__module__.startswith(HTTP_LIBRARIES)


def _out_of_reach(repository: str, error: Exception, by_hand: str) -> ModelUnavailable:
    said = next(iter(str(error).splitlines()), "") or type(error).__name__
    return ModelUnavailable(f"{repository} cannot be had from the hub: {said[:160]}", hint=by_hand)


def counter(progress: Progress, total: int) -> type:
    """A class with as much of tqdm as the hub's library uses; all its bars count as one."""
    done = 0

    class Counter:
        def __init__(self, *args: Any, initial: float | None = 0, **options: Any) -> None:
            self.update(initial)

        def __enter__(self) -> Counter:
            return self

        def __exit__(self, *error: object) -> None: ...

        def update(self, n: float | None = 1) -> None:
            nonlocal done
            done = min(total, done + int(n or 0))
            progress("fetch", done, total)

        def close(self) -> None: ...
        def refresh(self) -> None: ...
        def update_transfer(self, n: float | None = 1) -> None: ...
        def set_postfix_str(self, text: str, refresh: bool = False) -> None: ...
        def set_transfer_postfix_str(self, text: str, refresh: bool = False) -> None: ...

    return Counter
