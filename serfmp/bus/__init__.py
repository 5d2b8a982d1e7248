"""What the processes say to each other: the event loop, endpoints, typed frames, channels with credits, clone.

Imports `wire` and `errors` only.
"""
