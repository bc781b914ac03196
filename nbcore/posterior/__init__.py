"""Draws, the predictions they make, and the diagnostics of a run."""
