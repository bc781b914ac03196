"""Bayesian and partially Bayesian networks, by the modules of NeuroBayes."""
