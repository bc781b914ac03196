"""NeuroBayes with its defaults: the outputs of its draws at the test inputs.

python neurobayes_.py MODEL SPLIT.npz DRAWS.npz
"""

from __future__ import annotations

import functools
import sys

import jax
import jax.numpy as jnp
import neurobayes
import numpy as np

# A PartialBNN refuses to be made without a choice of layers.
MODELS = {
    "BNN": neurobayes.BNN,
    "PartialBNN": functools.partial(neurobayes.PartialBNN, num_probabilistic_layers=1),
}


def main() -> None:
    """Fit, and write outputs `(draws, test rows)` and noise `(draws,)`."""
    name, work, result = sys.argv[1:]
    data = {key: jnp.asarray(value) for key, value in np.load(work).items()}
    network = neurobayes.FlaxMLP(hidden_dims=(32, 16), target_dim=1, activation="silu")
    model = MODELS[name](network)
    model.fit(data["X"], data["y"], progress_bar=False)
    bayesian = getattr(model, "_model", model)
    draws = bayesian.get_samples()
    found = bayesian.sample_from_posterior(jax.random.PRNGKey(1), data["test_X"], draws, ["mu"])
    outputs = np.asarray(found["mu"])[..., 0]
    np.savez(result, outputs=outputs, noise=np.asarray(draws["sig"]))


if __name__ == "__main__":
    main()
