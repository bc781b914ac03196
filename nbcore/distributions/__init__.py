"""Priors, likelihoods, and the predictive families of y."""
