"""Which weights are stochastic, and how parameters are split and merged exactly."""
