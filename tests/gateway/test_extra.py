"""Without the packages of the extra, whoever wants HTTP hears what to install."""

from __future__ import annotations

import sys

import pytest

from llama_gossip.errors import ConfigError
from llama_gossip.gateway import PACKAGES, require_extra


def test_with_the_extra_nothing_is_said() -> None:
    require_extra()


@pytest.mark.parametrize("module", PACKAGES)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=f"serving HTTP needs {PACKAGES[module]}, ") as caught:
        require_extra()
    assert caught.value.exit_code == 3
    assert "pip install 'llama-gossip[gateway]'" in caught.value.hint
