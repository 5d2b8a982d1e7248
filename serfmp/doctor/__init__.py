"""What `serfmp doctor` looks at: the host of an agent, and how its gossip gets through.

Imports `client`, `wire`, and of `agent` and `events` what says where things are and what they mean. Changes nothing.
"""
