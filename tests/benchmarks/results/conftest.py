"""These scripts import each other from their own folder: pytest must not import them."""

collect_ignore_glob = ["*.py"]
