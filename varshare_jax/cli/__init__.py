"""Command lines: thin, their flags generated from the config dataclasses."""
