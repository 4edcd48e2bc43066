"""Puts the repository first on the path, so that the scripts run as they are, installed or not."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
