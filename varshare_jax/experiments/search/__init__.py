"""Searching a plan's spaces with Optuna: many trials in one compiled program, many workers."""
