"""Tiny random checkpoints, to try the plugin and to test it on a machine without an accelerator."""
