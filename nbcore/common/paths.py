"""Names of the leaves of a pytree: key paths joined by `/`."""

from __future__ import annotations

from typing import Any

import jax


def leaf_paths(tree: Any) -> list[str]:
    """Return the path of every leaf of a pytree, in the order of `jax.tree.leaves`.

    Examples:
        >>> leaf_paths({"Dense0": {"kernel": 1.0, "bias": 2.0}})
        ['Dense0/bias', 'Dense0/kernel']
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in flat]


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """Return the leaves of a pytree by their path.

    Examples:
        >>> leaves_by_path({"Dense0": {"kernel": 1.0, "bias": 2.0}})
        {'Dense0/bias': 2.0, 'Dense0/kernel': 1.0}
    """
    return dict(zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True))
