"""LVSA on plain diffusers pipelines: ``lvsa = enable_lvsa(pipe)``."""

from lvsa_core.diffusers.handle import Lvsa, enable_lvsa
from lvsa_core.diffusers.run import Report

__all__ = ["Lvsa", "Report", "enable_lvsa"]
