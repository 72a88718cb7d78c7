"""Gaussian posteriors over weights: sampling, KL and the estimators of an expected loss."""

from varshare_jax.variational.gaussian import Gaussian, kl_divergence, rho_of, sample_tree

__all__ = ["Gaussian", "kl_divergence", "rho_of", "sample_tree"]
