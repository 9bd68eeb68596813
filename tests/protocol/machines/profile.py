"""Profile: how hard the machines are driven.

The law: 200 examples each, no deadline (a loaded machine must not make the search smaller), and derandomized:
a red run is the same red run everywhere, and what was green stays green. It does not shrink, which takes
longer than a test may; HYPOTHESIS_MACHINES=machines-shrink runs the same examples and does. The search for
what nobody has seen is HYPOTHESIS_MACHINES=machines-search: it draws anew and prints how to repeat it.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings

SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much]  # a machine's rules wait for their moment

settings.register_profile(
    "machines",
    max_examples=200,
    stateful_step_count=60,  # submit, dial, accept, tokens, stall, failover, tokens, end: with room between
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=SLOW,
)
settings.register_profile(
    "machines-shrink", settings.get_profile("machines"), phases=(Phase.generate, Phase.shrink)
)
settings.register_profile(
    "machines-search",
    settings.get_profile("machines-shrink"),
    max_examples=5_000,
    stateful_step_count=80,
    derandomize=False,
    print_blob=True,
)
MACHINES = settings.get_profile(os.environ.get("HYPOTHESIS_MACHINES", "machines"))
PATIENCE = pytest.mark.timeout(1_200)  # half a minute of work each; a loaded machine is not an endless loop
