"""Hoisting: computing once what does not depend on the stochastic weights; see README.md."""
