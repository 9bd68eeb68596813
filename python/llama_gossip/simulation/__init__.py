"""Simulation: whole networks of real cores in virtual time, and all that can go wrong, drawn from a seed.

The law: one seed, one trace. No clock, no socket, no task: `random.Random(seed)` and a queue of what happens
next are all there is. `python -m llama_gossip.simulation --help` runs it.
"""
