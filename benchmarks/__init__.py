"""Benchmarks: what is measured and against what targets is in `cases`, the CLI in `throughput`."""
