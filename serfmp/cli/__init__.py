"""The command line: one module per command, loaded lazily, and the output formats.

Imports `client` and `errors`; `agent` only inside the agent command.
"""
