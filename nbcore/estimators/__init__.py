"""Fit and predict: `PartialBNN` and `BNN`."""
