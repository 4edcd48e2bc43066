"""LVSA as a plugin of vLLM-Omni; the entry points are in :mod:`lvsa_vllm_omni.plugin` and :mod:`lvsa_vllm_omni.cpu`."""
