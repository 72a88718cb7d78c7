"""Networks of ONE task; `methods` decide where each parameter lives."""
