"""Batches of videos with the engine's offline API: prompts in, one mp4 and one JSON a video out.

`examples/offline_lvsa.py` is the command line over these modules; a script of your own can take what it needs.
"""

from lvsa_vllm_omni.offline.engine import OfflineEngine
from lvsa_vllm_omni.offline.jobs import Job, VideoSettings, is_finished
from lvsa_vllm_omni.offline.prompts import PromptFileError, PromptSpec, read_prompts_file
from lvsa_vllm_omni.offline.video import frames_of, write_mp4

__all__ = [
    "Job",
    "OfflineEngine",
    "PromptFileError",
    "PromptSpec",
    "VideoSettings",
    "frames_of",
    "is_finished",
    "read_prompts_file",
    "write_mp4",
]
