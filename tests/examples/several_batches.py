"""`examples/offline_lvsa.py` several times in one process, whose imports take longer than a tiny video.

The argument is a JSON list of command lines. The video of the prompt `surprise` runs with a wrong geometry of Wan's.
"""

import gc
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import offline_lvsa

from lvsa_vllm_omni.hooks import WAN, VideoTokens
from lvsa_vllm_omni.offline import OfflineEngine, VideoSettings


class SurprisedEngine(OfflineEngine):
    """Has one token a frame too many in one video."""

    def generate(self, settings: VideoSettings) -> Any:
        right = WAN.video
        if settings.prompt == "surprise":
            latent_frames = (settings.frames - 1) // 4 + 1
            WAN.__dict__["video"] = lambda *given: VideoTokens(latent_frames, 17)
        try:
            return super().generate(settings)
        finally:
            WAN.__dict__["video"] = right


if __name__ == "__main__":
    offline_lvsa.OfflineEngine = SurprisedEngine
    codes = []
    for argv in json.loads(sys.argv[1]):
        codes.append(offline_lvsa.main(argv))
        gc.freeze()  # the engine collects at each start and end: it need not look at all that was imported
    sys.exit(max(codes))
