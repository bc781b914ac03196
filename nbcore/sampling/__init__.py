"""The contract of a sampler, and the driver that runs chains."""
