"""Units of y in which a network was trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ROUNDING = 16 * np.finfo(np.float64).eps  # deviation of equal targets over their size, at most


@dataclass(frozen=True)
class Scaler:
    """Units of y: `y = shift + scale * standardized`, per output `(outputs,)`."""

    shift: np.ndarray
    scale: np.ndarray

    @staticmethod
    def fit(y: np.ndarray) -> Scaler:
        """Return the scaler that gives y `(N,)` or `(N, outputs)` mean 0 and deviation 1.

        Targets that are all the same are in units of their size.
        """
        columns = np.asarray(y, np.float64).reshape(len(y), -1)
        mean, deviation = np.nanmean(columns, axis=0), np.nanstd(columns, axis=0)
        size = np.nanmax(np.abs(columns), axis=0)
        is_constant = deviation <= ROUNDING * size
        return Scaler(mean, np.where(is_constant, np.where(size > 0, size, 1.0), deviation))

    @staticmethod
    def identity(num_outputs: int) -> Scaler:
        """Return the scaler that changes nothing."""
        return Scaler(np.zeros(num_outputs), np.ones(num_outputs))

    def to_data(self) -> dict[str, list[float]]:
        """Return the scaler as JSON data."""
        return {"shift": self.shift.tolist(), "scale": self.scale.tolist()}

    @staticmethod
    def from_data(data: dict[str, list[float]]) -> Scaler:
        """Return the scaler that `to_data` described."""
        return Scaler(np.array(data["shift"]), np.array(data["scale"]))

    def standardize(self, y: np.ndarray) -> np.ndarray:
        """Return y in standardized units, in its own shape."""
        columns = np.asarray(y, np.float64).reshape(len(y), -1)
        return ((columns - self.shift) / self.scale).reshape(np.shape(y))
