"""The SWIM half of the core: probes, suspicion, broadcasts, push/pull, awareness.

Imports `wire`, `errors` and the core's own `config`, `effects`, `records` only: time is passed in, randomness is
injected.
"""
