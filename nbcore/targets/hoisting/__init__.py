"""What does not depend on the stochastic weights is computed once."""
