"""VQeval: a measure of long videos that loops cannot fool. ``evaluate`` takes a video, ``compare`` two folders."""

from vqeval.comparison import Comparison, compare
from vqeval.errors import InputError, VideoError, VqevalError, WeightsError
from vqeval.evaluation import evaluate
from vqeval.result import Dimension, Result

__all__ = [
    "Comparison",
    "Dimension",
    "InputError",
    "Result",
    "VideoError",
    "VqevalError",
    "WeightsError",
    "compare",
    "evaluate",
]
