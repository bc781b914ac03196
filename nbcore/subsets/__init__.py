"""Subsets of stochastic weights, and the exact split and merge of parameters."""
