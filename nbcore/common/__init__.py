"""What every room needs and what knows nothing of networks."""
