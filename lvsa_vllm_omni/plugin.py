"""Entry point of the plugin: settings, backend name, hooks, one summary line."""


def register() -> None:
    """Placeholder while the tree is being laid out."""
