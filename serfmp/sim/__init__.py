"""Simulated clusters: a virtual clock and network around the shipping core, faults, invariants, figures.

Imports `detector` (the core) and `wire`. Everything that happens in a run follows from its seed.
"""
