"""SWIM and Serf as one deterministic core (`core`, `effects`, `swim`, `serf`), and the process and snapshot around it.

The core imports `wire` only; the process around it also `bus`.
"""
