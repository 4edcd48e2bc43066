"""What ``import lvsa_core`` gives, and what it costs."""

import subprocess
import sys
from pathlib import Path

import pytest

import lvsa_core

REPOSITORY = Path(__file__).parents[2]


def test_exported_names() -> None:
    assert sorted(lvsa_core.__all__) == [
        *("Decision", "FrameGrid", "Pattern", "Placement", "TokenLayout"),
        *("attend", "keyframe_interval", "plan", "reference_attend"),
    ]
    assert all(getattr(lvsa_core, name).__doc__ for name in lvsa_core.__all__)


@pytest.mark.slow
def test_import_needs_only_torch() -> None:
    """In a process of its own, as this one has imported nearly everything."""
    program = (
        "import sys, torch; before = set(sys.modules); import lvsa_core; from lvsa_core import show;"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=120
    )
    assert run.stdout.split() == ["lvsa_core"] and run.stderr == ""


@pytest.mark.slow
def test_attention_on_the_cpu_loads_no_gpu_library() -> None:
    program = (
        "import sys, torch; from lvsa_core import *; q = torch.randn(1, 100, 1, 8);"
        "attend(q, q, q, plan(25, reference_frames=6), TokenLayout(FrameGrid(25, 4)));"
        "print(*{'triton', 'flashinfer', 'fa3_fwd_interface', 'vllm', 'torch_npu'} & set(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=120
    )
    assert run.stdout.split() == [] and run.stderr == ""
