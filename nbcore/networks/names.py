"""Names of the features and of the classes that a model was fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.metrics.class_names import ClassNames, classes_of, codes_of, names_of
from nbcore.networks.evaluation import count_outputs
from nbcore.networks.inputs import Missing, network_for, num_examples
from nbcore.networks.network import Network, Params, as_network
from nbcore.networks.tables import as_arrays, as_column, column_names, is_table

LabelKind = Literal["classes", "binary"]
"""Labels that y holds: one of several classes, or yes and no for each output."""


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


def names_in(
    X: Any, y: Any, labels: LabelKind | None, model: Any, params: Params | None = None
) -> Names:
    """Return the names of features and classes in some data, as they were given.

    Args:
        X: inputs.
        y: targets.
        labels: which labels y holds; `None`: numbers.
        model: the network, or a model that `nb.as_network` knows.
        params: its parameters, if it cannot make any.

    Raises:
        LabelError, DataError, ShapeError: see `nbcore.metrics.class_names.classes_of`.
    """
    features = column_names(X)
    if labels is None:
        return Names(features)
    count = num_outputs(model, as_arrays(X), params)
    if labels == "classes":
        return Names(features, classes_of(y, count) if count > 1 else None)
    return Names(features, classes_of(y, 2) if count == 1 else None)


def named_network(
    model: Any,
    X: Any,
    y: Any,
    labels: LabelKind | None,
    known: Names,
    counted: tuple[Any, Params | None],
    *,
    standardize_inputs: bool,
    missing: Missing = "error",
) -> tuple[Names, Network, Any, np.ndarray]:
    """Return names, the network of a model, and inputs and targets as checked arrays.

    Args:
        model: the network, or a model that `nb.as_network` knows.
        X: inputs, as they were given.
        y: targets, as they were given.
        labels: which labels y holds; `None`: numbers.
        known: names that are known already.
        counted: the network whose outputs tell the number of classes, and its parameters.
        standardize_inputs: see `network_for`.
        missing: see `network_for`.

    Raises:
        LabelError, ShapeError, DataError, TokenError: what is wrong with the data.
    """
    names = known
    if known.classes is None:
        names = names_in(X, y, labels, *counted)
    names = Names(known.features or column_names(X), names.classes)
    inputs, targets = names.data(X, y)
    network = network_for(
        model, inputs, targets, standardize_inputs=standardize_inputs, missing=missing
    )
    return names, network, inputs, targets


def num_outputs(model: Any, X: Any, params: Params | None = None) -> int:
    """Return the number of outputs of a network, without computing them.

    Args:
        model: the network, or a model that `nb.as_network` knows.
        X: inputs.
        params: its parameters; `None` reads their shapes off the network.
    """
    num_examples(X)
    first = jax.tree.map(lambda a: jnp.asarray(a[:1]), X)  # pyright: ignore[reportUnknownLambdaType]
    network = as_network(model, example=first)
    if params is None:
        params = jax.eval_shape(network.init, jax.random.key(0), first)
    return count_outputs(network, params, first)
