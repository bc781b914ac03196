"""Names of the features and of the classes that a model was fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nbcore.metrics.class_names import ClassNames, codes_of, names_of
from nbcore.networks.tables import as_arrays, as_column, is_table


@dataclass(frozen=True)
class Names:
    """What the columns of X and the labels of y are called; a model reads data by them.

    Args:
        features: columns of a table; `None` if X was none, or its columns are no texts.
        classes: name of each class, in the order of the outputs; `None` if y has no labels.

    Examples:
        >>> names = Names(classes=("no", "yes"))
        >>> names.targets(["yes", "no"]).tolist()
        [1, 0]
    """

    features: tuple[str, ...] | None = None
    classes: ClassNames | None = None

    def inputs(self, X: Any, name: str = "X") -> Any:
        """Return X as arrays; a table must have the columns that are known, in their order."""
        return as_arrays(X, self.features, name=name)

    def targets(self, y: Any, name: str = "y") -> np.ndarray:
        """Return y as numbers; labels as integers from 0."""
        if self.classes is not None:
            return codes_of(self.classes, y, name=name)
        return as_arrays(y, name=name) if is_table(y) else as_column(y, name)

    def labels(self, y: Any) -> Any:
        """Return numbers that `targets` gave as they were given, labels by their names."""
        return y if self.classes is None else names_of(self.classes, y)

    def data(self, X: Any, y: Any) -> tuple[Any, np.ndarray]:
        """Return inputs and targets as arrays and numbers."""
        return self.inputs(X), self.targets(y)

    def validation(self, pair: tuple[Any, Any] | None) -> tuple[Any, np.ndarray] | None:
        """Return validation data as arrays and numbers."""
        if pair is None:
            return None
        return self.inputs(pair[0], "validation X"), self.targets(pair[1], "validation y")

    def to_data(self) -> dict[str, Any]:
        """Return the names as JSON data."""
        return {"features": self.features, "classes": self.classes}

    @staticmethod
    def from_data(data: dict[str, Any]) -> Names:
        """Return the names that `to_data` described."""
        features, classes = data["features"], data["classes"]
        return Names(features and tuple(features), classes and tuple(classes))
