"""The plugin's log lines, read where they are written."""

import logging


class Log(logging.Handler):
    """The plugin's log lines, taken from its logger: vLLM decides, and changes, whether others hear of them."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def messages(self) -> list[str]:
        """The lines as they are printed."""
        return [record.getMessage() for record in self.records]

    def clear(self) -> None:
        self.records.clear()
