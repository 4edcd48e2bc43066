"""The tests, as a package: so that they can import what stands in ``tests.support``, from wherever they are run."""
