def vllm_platform():
    return None
def omni_platform():
    return None
