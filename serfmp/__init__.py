"""A Serf agent in Python, one process per concern over ZeroMQ.

This module imports nothing: `serfmp members` must start fast. Each package says in its `__init__` what it may import.
"""

__version__ = "0.1.0"
