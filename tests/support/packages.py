"""A package that brings a family, as another project's would."""

from collections.abc import Callable
from pathlib import Path

#: A family for a model that is in no engine, so that nothing is patched.
MODULE = """
from lvsa_vllm_omni.hooks import FamilySpec
LAB = FamilySpec("{name}", "lab_engine.model:LabTransformer", (), ("LabAttention",), video=lambda *given: None)
"""
#: What the fixture ``package`` is: see ``tests/lvsa_vllm_omni/conftest.py``.
Package = Callable[..., Path]
