"""What goes wrong with what a user gave: one sentence that says what to do."""


class VqevalError(ValueError):
    """Base of the errors below; its text is the sentence for the user."""


class VideoError(VqevalError):
    """A file that cannot be judged as a video."""


class InputError(VqevalError):
    """A folder, a table, a flag or a setting that cannot be used."""


class WeightsError(VqevalError):
    """A learned dimension whose package or weights are missing; the text says how to get them."""
