"""Reference posteriors of networks, which samplers are held to.

A reference is a log density over some weights of a small network, pinned down to its data, and
what long runs of exact samplers found: moments of predictions and of other functions that
symmetries of the network leave alone, their Monte Carlo errors, and some hundred draws.
"""

from __future__ import annotations

from nbcore.references.distance import Distance
from nbcore.references.problems import Problem
from nbcore.references.reference import Reference, load, names

list = names

__all__ = ["Distance", "Problem", "Reference", "list", "load"]
