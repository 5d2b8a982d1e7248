"""The Serf half of the core: Lamport clocks, intents, user events, queries, coordinates.

Imports `wire`, `errors`, `detector.swim` and the core's own `config`, `effects`, `records` only: time is passed in,
randomness is injected.
"""
