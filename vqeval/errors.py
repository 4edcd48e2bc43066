"""What goes wrong with what a user gave: one sentence that says what to do."""


class VqevalError(ValueError):
    """Base of the errors below; its text is the sentence for the user."""


class VideoError(VqevalError):
    """A file that cannot be judged as a video."""


class InputError(VqevalError):
    """A folder, a table, a flag or a setting that cannot be used."""


class WeightsError(VqevalError):
    """A learned dimension whose package or weights are missing; the text says how to get them."""


def first_line(error: Exception) -> str:
    """What an error of a library says first, without a full stop, to go into a sentence of ours; else its name."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
