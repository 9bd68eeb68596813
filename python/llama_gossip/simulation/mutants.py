"""Mutants: the core with one rule taken out, as data. Each names the rule and the oracle that should fall.

The law: `old` stands exactly once in its module, and a mutant still serves requests when nothing goes wrong:
what it lacks must be missed only under faults.
"""

from __future__ import annotations

from llama_gossip.simulation.mutant import Mutant
from llama_gossip.simulation.mutants_of_delivery import OF_DELIVERY
from llama_gossip.simulation.mutants_of_gossip import OF_GOSSIP
from llama_gossip.simulation.mutants_of_requesters import OF_REQUESTERS
from llama_gossip.simulation.mutants_of_soliciting import OF_SOLICITING
from llama_gossip.simulation.mutants_of_workers import OF_WORKERS

MUTANTS: tuple[Mutant, ...] = (*OF_WORKERS, *OF_GOSSIP, *OF_REQUESTERS, *OF_SOLICITING, *OF_DELIVERY)
