"""The supervisor: configuration, runtime directory, journal, process table, signals, logs, restarts.

Imports `io`, `detector`, `events`, `bus` and `wire`; the supervisor itself never uses ZeroMQ, so that it may fork
at any time.
"""
