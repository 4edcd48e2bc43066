"""`examples/offline_lvsa.py` with an engine that dies after every video, as one does whose worker was killed."""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import offline_lvsa

from lvsa_vllm_omni.offline import OfflineEngine, VideoSettings


class MortalEngine(OfflineEngine):
    """Ends its engine behind the batch's back."""

    def generate(self, settings: VideoSettings) -> Any:
        output = super().generate(settings)
        self._omni.shutdown()
        return output


if __name__ == "__main__":
    offline_lvsa.OfflineEngine = MortalEngine
    sys.exit(offline_lvsa.main())
