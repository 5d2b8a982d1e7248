from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serfmp.wire.errors import WireError
from serfmp.wire.lzw import CLEAR, END, Decompressor, compress, decompress
from tests.wire import vectors
from tests.wire.vectors import Json

LIMIT = 1 << 20

inputs = st.binary(max_size=3000) | st.builds(
    lambda pattern, count: pattern * count, st.binary(max_size=12), st.integers(0, 800)
)


def stepwise(data: bytes, budget: int, limit: int = LIMIT) -> bytes:
    decompressor = Decompressor(data, limit)
    while not decompressor.step(budget):
        pass
    return decompressor.result()


def packed(*codes: tuple[int, int]) -> bytes:
    """Codes with their widths, as a stream."""
    bits = filled = 0
    for code, width in codes:
        bits |= code << filled
        filled += width
    return bits.to_bytes((filled + 7) // 8, "little")


@pytest.mark.parametrize("vector", vectors.load("lzw"), ids=lambda vector: vector["name"])
def test_the_reference_writes_and_reads_the_same_bytes(vector: Json) -> None:
    source = vectors.generate(vector["input_generator"])
    assert hashlib.sha256(source).hexdigest() == vector["input_sha256"]
    compressed = bytes.fromhex(vector["compressed_hex"])
    assert compress(source) == compressed
    assert decompress(compressed, len(source)) == source
    assert stepwise(compressed, 100) == source


def test_there_are_27_vectors() -> None:
    assert len(vectors.load("lzw")) == 27


@given(inputs, st.integers(1, 300))
def test_what_was_compressed_comes_back_in_steps_of_any_size(data: bytes, budget: int) -> None:
    assert stepwise(compress(data), budget) == data


@given(st.binary(max_size=300), st.integers(1, 100))
def test_any_bytes_decompress_or_are_refused_alike_in_steps_of_any_size(data: bytes, budget: int) -> None:
    results: list[bytes | str] = []
    for size in (budget, LIMIT):
        try:
            results.append(stepwise(data, size))
        except WireError as error:
            results.append(error.kind)
    assert results[0] == results[1]


def test_a_full_table_stays_as_it_is_until_a_clear() -> None:
    # Literals only: after the first, each defines an entry until 4096 are there. The writer never lets it come to that.
    codes = [(CLEAR, 9)]
    for number in range(5000):
        free = min(257 + number + 1, 4096)
        codes.append((number % 256, min((free - 1).bit_length(), 12) if free > 512 else 9))
    stream = packed(*codes, (4095, 12), (CLEAR, 12), (65, 9), (END, 9))
    plain = bytes(number % 256 for number in range(5000))
    # Entry 4095 is the last that was defined: the two literals that began 3837 codes after the clear.
    assert decompress(stream, LIMIT) == plain + bytes(((3837) % 256, (3838) % 256)) + b"A"


def test_a_stream_need_not_begin_with_a_clear() -> None:
    assert decompress(packed((65, 9), (END, 9)), LIMIT) == b"A"


def test_bytes_behind_the_end_are_ignored() -> None:
    assert decompress(compress(b"abc") + b"more", LIMIT) == b"abc"


@pytest.mark.parametrize("data", [b"", b"\x00", compress(b"some text")[:-2]])
def test_the_end_code_is_required(data: bytes) -> None:
    with pytest.raises(WireError, match="has no end"):
        decompress(data, LIMIT)


def test_the_limit_is_exact() -> None:
    assert decompress(compress(bytes(1000)), 1000) == bytes(1000)
    with pytest.raises(WireError, match="more than 999 bytes"):
        decompress(compress(bytes(1000)), 999)


def test_a_step_gives_little_more_than_its_budget_even_of_a_bomb() -> None:
    decompressor = Decompressor(compress(bytes(1_000_000)), LIMIT)
    before = 0
    while not decompressor.step(1000):
        size = len(decompressor.result())
        assert before < size <= before + 1000 + 4096
        before = size


def test_clears_use_up_the_budget_too() -> None:
    decompressor = Decompressor(packed(*[(CLEAR, 9)] * 10_000, (END, 9)), LIMIT)
    steps = 1
    while not decompressor.step(1000):
        steps += 1
    assert steps > 10
    assert decompressor.result() == b""
