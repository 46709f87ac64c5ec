"""Tests of what the benchmarks compute from their runs."""
