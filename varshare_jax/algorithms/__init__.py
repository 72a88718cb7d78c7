"""Algorithms: pure init/update pairs over a problem (suite, network, config)."""
