"""The contract of a selector, and how scores become a subset."""
