"""One self-contained HTML page for a video, and one for a comparison: no file beside it, nothing from the network."""

from vqeval.page.render import comparison_page, video_page

__all__ = ["comparison_page", "video_page"]
