"""The options of ``vllm serve`` in the table of parallelism, read by the engine's own command line."""

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import pytest

from lvsa_vllm_omni import compat, parallelism


@pytest.fixture(scope="module")
def parser() -> Any:
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm_omni.entrypoints.cli.serve import OmniServeCommand

    made = FlexibleArgumentParser()
    OmniServeCommand().subparser_init(made.add_subparsers())
    return made


@pytest.mark.parametrize("option", parallelism.PLACEMENTS, ids=lambda option: option.title)
def test_the_options_make_the_placement(parser: Any, option: parallelism.PlacementOption) -> None:
    from vllm_omni.diffusion.data import DiffusionParallelConfig

    names = {field.name for field in fields(DiffusionParallelConfig) if field.init}
    if option.placement.allgather_kv > 1 and "allgather_degree" not in names:
        pytest.skip("this engine has no AllGather-KV")
    given = vars(parser.parse_args(["serve", "m", "--omni", *option.options.split()]))
    config = DiffusionParallelConfig(**{name: x for name, x in given.items() if name in names and x is not None})
    assert compat.placement(SimpleNamespace(parallel_config=config)) == option.placement
