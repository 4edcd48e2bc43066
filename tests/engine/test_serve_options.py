"""The options of ``vllm serve`` in the table of parallelism, read by the engine's own command line."""

from dataclasses import fields
from types import SimpleNamespace

from lvsa_vllm_omni import compat, parallelism


def test_the_options_make_the_placement() -> None:
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm_omni.diffusion.data import DiffusionParallelConfig
    from vllm_omni.entrypoints.cli.serve import OmniServeCommand

    parser = FlexibleArgumentParser()
    OmniServeCommand().subparser_init(parser.add_subparsers())
    names = {field.name for field in fields(DiffusionParallelConfig) if field.init}
    for strategy in parallelism.PLACEMENTS:
        given = vars(parser.parse_args(["serve", "m", "--omni", *strategy.options.split()]))
        config = DiffusionParallelConfig(**{name: x for name, x in given.items() if name in names and x is not None})
        assert compat.placement(SimpleNamespace(parallel_config=config)) == strategy.placement, strategy
