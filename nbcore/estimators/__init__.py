"""Estimators, which train what is frozen, sample the rest and predict."""
