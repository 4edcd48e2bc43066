"""What the command line's subcommands do; they yield lines, and :mod:`lvsa_vllm_omni.cli.main` prints them."""

__all__ = ["CommandError", "CommandFailed"]


class CommandError(ValueError):
    """The input is bad; one sentence for the user."""

    #: The exit status of `lvsa`.
    status = 2


class CommandFailed(CommandError):
    """The input is good, but this machine cannot do it; one sentence for the user."""

    status = 1
