"""LVSA on plain diffusers pipelines: ``lvsa = enable_lvsa(pipe)``."""

from lvsa_core.diffusers.generation import Report
from lvsa_core.diffusers.handle import Lvsa, enable_lvsa

__all__ = ["Lvsa", "Report", "enable_lvsa"]
