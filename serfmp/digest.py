"""Short names for long things.

Not `hashlib`: it loads OpenSSL, 4 MB, which an agent without encryption needs for nothing else. Nobody is kept from
making two things of one name; whoever could would only confuse his own agent.
"""

from __future__ import annotations

import zlib


def short_name(data: bytes) -> str:
    """12 hexadecimal digits, always the same for the same data."""
    # Forwards and backwards: of two that agree in one sum the other is as good as random.
    return f"{zlib.crc32(data):08x}{zlib.crc32(data[::-1]):08x}"[:12]
