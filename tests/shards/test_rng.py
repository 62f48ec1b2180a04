"""The counter-based generator, against its published vectors and as a source of uniform numbers."""

from itertools import pairwise

import pytest

from shards.engine.rng import philox4x32, uniform

ONES = 0xFFFFFFFF
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_philox_gives_the_published_known_answers(counter, key, expected):
    assert philox4x32(counter, key) == expected


def test_uniform_uses_53_bits_of_the_first_two_words():
    number = uniform(0, 0)
    high, low = 0x6627E8D5 >> 5, 0xE169C58D >> 6
    assert number == (high * 2**26 + low) / 2**53


def test_all_64_bits_of_seed_and_position_matter():
    numbers = {uniform(1 << bit, 0) for bit in range(64)} | {uniform(0, 1 << bit) for bit in range(64)}
    assert len(numbers) == 128


@pytest.mark.parametrize(("seed", "position"), [(-1, 0), (0, -1), (1 << 64, 0), (0, 1 << 64)])
def test_arguments_beyond_64_bits_are_refused(seed, position):
    with pytest.raises(ValueError, match="64-bit"):
        uniform(seed, position)


def test_consecutive_positions_and_consecutive_seeds_are_uniform_and_uncorrelated():
    n, bins = 4000, 20
    for stream in ([uniform(7, i) for i in range(n)], [uniform(i, 7) for i in range(n)]):
        counts = [0] * bins
        for number in stream:
            assert 0 <= number < 1
            counts[int(number * bins)] += 1
        chi_square = sum((count - n / bins) ** 2 / (n / bins) for count in counts)
        assert chi_square < 43.8  # 0.999 quantile with 19 degrees of freedom
        lagged = sum((a - 0.5) * (b - 0.5) for a, b in pairwise(stream)) * 12 / n
        assert abs(lagged) < 4 / n**0.5
