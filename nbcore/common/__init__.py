"""Helpers that know nothing of networks: keys, options, progress, files, plugins."""
