"""llama-gossip: machines with language models serve each other, with no server in the middle."""
