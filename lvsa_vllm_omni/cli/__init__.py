"""What the command line's subcommands do; they yield lines, and :mod:`lvsa_vllm_omni.cli` prints them."""

__all__ = ["CommandError"]


class CommandError(ValueError):
    """The input is bad, or the machine cannot do it; one sentence for the user."""
