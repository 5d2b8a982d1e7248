"""From an event to a handler: specs, dispatcher, lanes, workers, scripts, ledger.

Imports `bus`, `wire` and `errors`.
"""
