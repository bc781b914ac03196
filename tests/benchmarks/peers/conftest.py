"""These scripts run in other environments, beside each other: pytest must not import them."""

collect_ignore_glob = ["*.py"]
