"""The protocol core: no clock, socket, task or randomness of its own. docs/protocol.md says what holds."""
