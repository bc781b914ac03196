"""Networks as JSON data: the name and options of registered ones, and the form of their inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common import plugins
from nbcore.common.packing import pack, unpack
from nbcore.errors import OptionError, ShapeError
from nbcore.networks.evaluation import as_columns, compiled_apply
from nbcore.networks.input_scaling import InputScaler
from nbcore.networks.inputs import num_examples
from nbcore.networks.network import Network, Params, as_network
from nbcore.networks.standardized import input_scaler, plain_network, with_scaler

PROBES = 8
"""Examples at which networks are compared."""
TOLERANCE = 0.01
"""Difference of outputs, over their largest, that devices of other precision may make."""


def form_of(network: Network) -> Any:
    """Return the form of the inputs that a network was made for, as JSON data, without values.

    `None`: the network has no example, or one in containers that JSON data cannot describe.

    Examples:
        >>> import nbcore as nb
        >>> pair = (lambda key, x: {}, lambda params, x: x)
        >>> form_of(nb.as_network(pair, example=jnp.ones((1, 3))))["arrays"]
        {'value': {'shape': [1, 3], 'dtype': 'float32'}}
    """
    example = getattr(network, "example", None)
    if example is None:
        return None
    try:
        containers, arrays = pack(jax.tree.map(jnp.asarray, example))
    except OptionError:
        return None
    described = {k: {"shape": list(a.shape), "dtype": a.dtype.name} for k, a in arrays.items()}
    return {"containers": containers, "arrays": described}


def example_of(form: Any, count: int = 1) -> Any:
    """Return inputs of a form that `form_of` described; `None` of `None`.

    Integers are 1, so that tokens are no padding; floats differ from each other, up to 3.

    Args:
        form: the form.
        count: number of examples.
    """
    if form is None:
        return None

    def made(shape: list[int], dtype: str) -> np.ndarray:
        shape = [count, *shape[1:]]
        values = 3 * np.sin(1.0 + np.arange(np.prod(shape, dtype=int))).reshape(shape)
        is_float = jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
        return np.asarray(values if is_float else np.ones(shape), jnp.dtype(dtype))

    arrays = {name: made(a["shape"], a["dtype"]) for name, a in form["arrays"].items()}
    return unpack(form["containers"], arrays)


@dataclass(frozen=True)
class StoredNetwork:
    """A network without its weights, as a file holds it: data, never code.

    Args:
        name: name under which a plugin offers its architecture; `None` if none does.
        options: options of the architecture.
        model: module and class of the model, for messages.
        inputs: the form of its inputs, see `form_of`.
        input_scaler: the step that standardizes its inputs, see `InputScaler.to_data`; `None`
            without one.
        outputs: its outputs at `example_of(inputs, 8)`, which tell it from other networks that fit
            the same weights; `None` if it cannot be called on such inputs.
    """

    name: str | None
    options: Mapping[str, Any]
    model: str
    inputs: Any
    input_scaler: Any
    outputs: Any

    @staticmethod
    def of(network: Network, params: Params) -> StoredNetwork:
        """Describe a network and its outputs with some weights."""
        step, plain = input_scaler(network), plain_network(network)
        model: Any = getattr(plain, "module", plain)
        name, options = plugins.describe("network", model) or (None, {})
        inputs = form_of(network)
        written = f"{type(model).__module__}.{type(model).__qualname__}"
        outputs = _outputs(network, params, inputs)
        return StoredNetwork(name, options, written, inputs, step and step.to_data(), outputs)

    def restore(self, given: Any, folder: Any) -> Network:
        """Return the network, made anew of its name or of a model that is given.

        Args:
            given: the model or network; `None` makes it by its name.
            folder: where it was stored, for messages.

        Raises:
            OptionError: no plugin offers its architecture, and none is given.
            PluginError, MissingExtraError: the plugin of the architecture is missing.
        """
        step = None if self.input_scaler is None else InputScaler.from_data(self.input_scaler)
        return with_scaler(self._plain(given, folder), step)

    def _plain(self, given: Any, folder: Any) -> Network:
        if given is not None:
            return as_network(given, example=example_of(self.inputs))
        if self.name is None:
            short = self.model.rpartition(".")[2]
            raise OptionError(
                f"{folder} holds the weights of a {self.model}, which is no architecture that a "
                "plugin offers by name, and files hold no code. Pass the network that was fitted: "
                f"nb.load(folder, network={short}(...))"
            )
        model = plugins.build("network", self.name, dict(self.options))
        return as_network(model, example=example_of(self.inputs))

    def check(self, network: Network, params: Params) -> None:
        """Check that a network computes what the one that was stored did.

        Raises:
            ShapeError: the weights do not fit it, or its outputs are others.
        """
        if self.outputs is None:
            return
        remedy = f"Pass the network that was saved, a {self.model} with the same options."
        known = np.asarray(self.outputs, np.float64)
        try:
            inputs = example_of(self.inputs, PROBES)
            found = np.asarray(as_columns(compiled_apply(network, params, inputs), len(known)))
        except Exception as error:  # frameworks have errors of their own
            raise ShapeError(
                f"The stored weights do not fit this network ({error}). {remedy}"
            ) from error
        limit = TOLERANCE * float(np.max(np.abs(known), initial=1e-6))
        if found.shape != known.shape or not np.allclose(found, known, 0, limit, equal_nan=True):
            raise ShapeError(
                "This network has the weights of the one that was saved, and computes something "
                f"else with them: {np.round(found[0], 4).tolist()} instead of "
                f"{np.round(known[0], 4).tolist()} on the same inputs. {remedy}"
            )


def _outputs(network: Network, params: Params, inputs: Any) -> list[Any] | None:
    example = example_of(inputs, PROBES)
    if example is None:
        return None
    try:
        outputs = as_columns(compiled_apply(network, params, example), num_examples(example))
    except Exception:  # such as a graph, of which these inputs are none
        return None
    return np.asarray(outputs, np.float64).tolist()
