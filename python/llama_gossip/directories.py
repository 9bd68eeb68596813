"""Where this user's files belong. The law: with LLAMA_GOSSIP_HOME set every one of them lies under it, and
what holds secrets is open to its owner alone."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llama_gossip.errors import ConfigError

APP_NAME = "llama-gossip"


def ensure_private(folder: Path) -> Path:
    """Makes `folder` and its parents with mode 0700; tightens it when it is looser. Raises ConfigError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode):
            raise ConfigError(f"{folder} is a link, not a folder", hint="remove it or set LLAMA_GOSSIP_HOME")
        if status.st_uid != os.geteuid():
            raise ConfigError(
                f"{folder} belongs to another user",
                hint="set LLAMA_GOSSIP_HOME to a folder of yours",
            )
        if status.st_mode & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        raise ConfigError(
            f"cannot make the folder {folder}: {error.strerror or error}",
            hint="check its permissions, or set LLAMA_GOSSIP_HOME to a folder of yours",
        ) from error
    return folder


@dataclass(frozen=True, slots=True)
class Directories:
    """Where this user's files lie. Nothing is made before `ensure_private`."""

    config: Path  # config.toml
    state: Path  # locks, boot counters
    data: Path  # keys, the network secret
    models: Path  # weights, large, may be shared
    runtime: Path  # rendezvous of this user's nodes on this host; never on a file system of two hosts

    @classmethod
    def find(cls, environ: Mapping[str, str] = os.environ) -> Directories:
        """The directories of the user whose environment this is."""
        own_models = environ.get("LLAMA_GOSSIP_MODELS")
        if home_text := environ.get("LLAMA_GOSSIP_HOME"):
            home = absolute_path(home_text)
            models = absolute_path(own_models) if own_models else home / "models"
            return cls(
                config=home, state=home / "state", data=home / "data", models=models, runtime=home / "run"
            )
        import platformdirs

        state = Path(platformdirs.user_state_dir(APP_NAME, appauthor=False))
        data = Path(platformdirs.user_data_dir(APP_NAME, appauthor=False))
        return cls(
            config=Path(platformdirs.user_config_dir(APP_NAME, appauthor=False)),
            state=state,
            data=data,
            models=absolute_path(own_models) if own_models else data / "models",
            runtime=_runtime_directory(environ, state),
        )

    @property
    def keys(self) -> Path:
        return self.data / "keys"

    @property
    def locks(self) -> Path:
        return self.state / "locks"

    @property
    def boots(self) -> Path:
        return self.state / "boots"

    @property
    def config_file(self) -> Path:
        return self.config / "config.toml"


def absolute_path(text: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(text)))


def _runtime_directory(environ: Mapping[str, str], state: Path) -> Path:
    """The session's runtime folder, also where a session without XDG_RUNTIME_DIR (cron) would find it."""
    candidates = [environ.get("XDG_RUNTIME_DIR", "")]
    if sys.platform.startswith("linux"):
        candidates.append(f"/run/user/{os.geteuid()}")
    for candidate in filter(None, candidates):
        base = Path(candidate)
        try:
            status = base.stat()
        except OSError:
            continue  # a stale variable of another session
        if base.is_absolute() and stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
            return base / APP_NAME
    return state / "run"
