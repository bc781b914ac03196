"""The log density over the stochastic weights, given data."""
