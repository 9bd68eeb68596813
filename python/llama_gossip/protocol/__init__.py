"""The protocol core: no clock, no socket, no task, no randomness of its own. docs/protocol.md says what holds."""
