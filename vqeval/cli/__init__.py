"""The command `vqeval`."""
