"""One preset a model, as TOML; :mod:`lvsa_vllm_omni.presets` reads them."""
