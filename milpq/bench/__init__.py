"""Benchmark suites: grids of questions, run with hard limits, resumed, and compared."""
