"""Fixtures of these tests: see `clusters`."""

from clusters import bare_python, cluster, dist, pictures, submit

__all__ = ["bare_python", "cluster", "dist", "pictures", "submit"]
