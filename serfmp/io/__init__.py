"""The processes that own sockets, gossip and rpc, and the RPC protocol.

Imports `bus`, `wire` and `errors`; decides nothing about members.
"""
