"""Gaussian posteriors over weights: sampling, KL and the estimators of an expected loss."""
