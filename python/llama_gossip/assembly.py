"""Assembly: the core of a live node, made of its key, its network and what its owner wants of it."""

from __future__ import annotations

import random
from collections.abc import Sequence

from llama_gossip.driver import now
from llama_gossip.home_network import HomeNetwork
from llama_gossip.identity import NodeKey, next_boot
from llama_gossip.meters import Meters
from llama_gossip.protocol.admission import Policy
from llama_gossip.protocol.core import Core
from llama_gossip.protocol.envelope import KeySigner, verify_signature
from llama_gossip.protocol.messages import NodeId
from llama_gossip.protocol.network import net_id
from llama_gossip.version import __version__


def core_of(
    key: NodeKey, home: HomeNetwork, *, allow: Sequence[NodeId] | None, role: str | None, is_open: bool
) -> tuple[Core, Meters]:
    """Its boot is on disk before it signs anything. The meters observe it. Raises ConfigError."""
    meters = Meters()
    core = Core(
        signer=KeySigner(key.seed),
        net_id=net_id(home.secret),
        boot=next_boot(key, now().wall_ms),
        node_name=key.name,
        verify=meters.timed(verify_signature),
        rng=random.SystemRandom(),  # keys are drawn of it too
        allowlist=None if allow is None else frozenset(allow),
        version=__version__,
        features=() if role is None else (f"role/{role}",),
        policy=Policy(open_network=is_open),
    )
    meters.queue_wait_s = core.queue_wait_s
    return core, meters
