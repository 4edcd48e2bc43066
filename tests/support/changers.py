"""Where classes that are not ours are changed, and each change says what it is and when it can go."""

CHANGERS = ("lvsa_core/diffusers/seam.py", "lvsa_vllm_omni/runner.py", "lvsa_vllm_omni/seam.py")
