"""One TOML file a model, the one source of its numbers; :mod:`lvsa_core.facts` reads them."""
