"""Timing, memory and cost of attention: what the benchmarks and ``lvsa bench`` measure and compute with."""
