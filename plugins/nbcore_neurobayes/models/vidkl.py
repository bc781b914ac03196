"""Variational deep kernel learning: not offered, see `nbcore_neurobayes.elsewhere`."""

from nbcore_neurobayes.elsewhere import names_of

__getattr__ = names_of(__name__)
