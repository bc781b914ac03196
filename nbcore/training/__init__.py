"""Deterministic training: one network, many networks, cross-fitting."""
