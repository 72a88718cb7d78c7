"""Checks of suites and algorithms against the implementations that they stand for."""
