"""From an event to a handler: specs, dispatcher, lanes, ledger, workers, scripts.

Imports `bus`, `wire`, `errors`, the event types of `detector.effects`, and from `agent` what every process is made of.
"""
