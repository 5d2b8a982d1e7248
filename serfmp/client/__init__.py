"""The RPC client library, synchronous and asyncio.

Imports `wire` and `errors` only, and starts fast: the command line depends on it.
"""
