"""The pure codec of the gossip protocol: messages, compound, LZW, CRC, encryption, labels, stream framing.

Imports `errors` only: no sockets, no clock, no operating system, no global random numbers.
"""
