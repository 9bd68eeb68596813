"""`python -m llama_gossip` is `llama-gossip`."""

from llama_gossip.cli.main import run

if __name__ == "__main__":
    run()
