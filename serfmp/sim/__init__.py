"""A virtual clock and network around the same deterministic core.

Imports `detector` (the core) and `wire`.
"""
