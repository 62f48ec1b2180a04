"""The joint choice for several devices: gaps first, in bounds, complementary, and as fast as any cut allows."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.swarm.joint import Device, choose_spans
from mesh.swarm.view import ProviderView, gaps, throughput_per_block
from shards.model.span import Span

RATES = st.sampled_from((0.0, 1.0, 7.0, 10.0, 10.5, 300.0))


@st.composite
def swarms(draw: st.DrawFn) -> tuple[int, list[ProviderView]]:
    n_blocks = draw(st.integers(1, 24))
    providers = []
    for number in range(draw(st.integers(0, 5))):
        start = draw(st.integers(0, n_blocks - 1))
        span = Span(start, draw(st.integers(start + 1, n_blocks)))
        providers.append(ProviderView(f"p{number}", span, draw(RATES), serving=draw(st.booleans())))
    return n_blocks, providers


devices_of = st.lists(st.builds(Device, st.integers(0, 30), RATES), max_size=6)


def with_own(providers: list[ProviderView], spans: list[Span], rate: float = 1.0) -> list[ProviderView]:
    return [*providers, *(ProviderView(f"own{number}", span, rate) for number, span in enumerate(spans))]


@given(swarms(), devices_of)
def test_every_device_gets_a_span_inside_the_model_that_it_has_memory_for(
    swarm: tuple[int, list[ProviderView]], devices: list[Device]
) -> None:
    n_blocks, providers = swarm
    spans = choose_spans(n_blocks, providers, devices)
    assert len(spans) == len(devices)
    for span, device in zip(spans, devices, strict=True):
        assert 0 <= span.start < span.end <= n_blocks
        assert len(span) <= max(1, device.capacity)


@given(swarms(), devices_of)
def test_while_a_gap_is_left_every_device_fills_a_part_of_one_that_no_other_fills(
    swarm: tuple[int, list[ProviderView]], devices: list[Device]
) -> None:
    n_blocks, providers = swarm
    spans = choose_spans(n_blocks, providers, devices)
    if not gaps(n_blocks, with_own(providers, spans)):
        return
    missing = [block for gap in gaps(n_blocks, providers) for block in gap]
    for number, span in enumerate(spans):
        others = {block for other in spans[:number] + spans[number + 1 :] for block in other}
        assert set(span) <= set(missing) - others


@given(swarms(), devices_of)
def test_one_gap_that_the_devices_can_hold_is_filled(
    swarm: tuple[int, list[ProviderView]], devices: list[Device]
) -> None:
    n_blocks, providers = swarm
    missing = gaps(n_blocks, providers)
    spans = choose_spans(n_blocks, providers, devices)
    if len(missing) == 1 and sum(max(1, device.capacity) for device in devices) >= len(missing[0]):
        assert not gaps(n_blocks, with_own(providers, spans))


@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_several_gaps_are_filled_whenever_any_dealing_out_fills_them(lengths: list[int], capacities: list[int]) -> None:
    providers, at = [], 0
    for number, length in enumerate(lengths):
        at += length
        providers.append(ProviderView(f"p{number}", Span(at, at + 1), 10.0))
        at += 1
    devices = [Device(capacity, 10.0) for capacity in capacities]
    spans = choose_spans(at, providers, devices)
    possible = any(
        all(
            sum(capacity for capacity, gap in zip(capacities, dealt, strict=True) if gap == which) >= length
            for which, length in enumerate(lengths)
        )
        for dealt in itertools.product(range(len(lengths)), repeat=len(capacities))
    )
    assert bool(gaps(at, with_own(providers, spans))) != possible


@given(
    st.integers(1, 9),
    st.lists(st.builds(Device, st.integers(1, 9), st.sampled_from((1.0, 3.0, 10.0, 11.0))), min_size=1, max_size=3),
)
def test_in_an_empty_swarm_no_cut_has_a_faster_slowest_stage(n_blocks: int, devices: list[Device]) -> None:
    cuts = [
        min(device.block_rate / blocks for device, blocks in zip(devices, cut, strict=True) if blocks)
        for cut in itertools.product(*(range(min(device.capacity, n_blocks) + 1) for device in devices))
        if sum(cut) == n_blocks
    ]
    spans = choose_spans(n_blocks, [], devices)
    own = [
        ProviderView(f"own{number}", span, device.block_rate)
        for number, (span, device) in enumerate(zip(spans, devices, strict=True))
    ]
    if cuts:
        assert min(throughput_per_block(n_blocks, own)) >= max(cuts) * (1 - 1e-9)
    else:
        assert sum(map(len, spans)) == sum(device.capacity for device in devices), "all that fits is held"


@pytest.mark.parametrize(
    ("n_blocks", "devices", "spans"),
    [
        (5, [(9, 1.0), (9, 1.0)], "0:3 3:5"),
        (32, [(40, 1.0), (40, 3.0)], "0:8 8:32"),
        (32, [(40, 1.0), (20, 3.0)], "0:12 12:32"),
        (80, [(30, 1.0), (30, 1.0)], "0:30 30:60"),
        (4, [(9, 1.0), (9, 1.0), (9, 1.0)], "0:2 2:3 3:4"),
    ],
)
def test_devices_share_a_new_model_by_speed_and_memory(
    n_blocks: int, devices: list[tuple[int, float]], spans: str
) -> None:
    found = choose_spans(n_blocks, [], [Device(*device) for device in devices])
    assert " ".join(map(str, found)) == spans


def test_a_device_that_the_gap_does_not_need_helps_where_others_are_slow() -> None:
    providers = [ProviderView("slow", Span(0, 8), 8.0), ProviderView("fast", Span(8, 14), 6000.0)]
    spans = choose_spans(16, providers, [Device(16, 100.0), Device(8, 100.0)])
    assert spans == [Span(14, 16), Span(0, 8)] or spans == [Span(0, 8), Span(14, 16)]
    assert not gaps(16, with_own(providers, spans))


def test_a_device_too_slow_to_help_does_not_slow_the_others_down() -> None:
    spans = choose_spans(8, [], [Device(8, 100.0), Device(8, 1.0)])
    assert spans[0] == Span(0, 8)


def test_those_that_only_load_count_as_soon_as_they_will_serve() -> None:
    loading = [ProviderView("loads", Span(0, 8), 1.0, serving=False)]
    assert choose_spans(16, loading, [Device(16, 900.0), Device(16, 900.0)]) == [Span(8, 12), Span(12, 16)]


@given(st.lists(st.builds(Device, st.integers(1, 9), RATES), min_size=9, max_size=16), st.integers(1, 4))
def test_many_devices_fill_every_gap_that_each_alone_could(devices: list[Device], count: int) -> None:
    holes = [Span(10 * number, 10 * number + 1) for number in range(count)]
    providers = [ProviderView(f"p{hole.start}", Span(hole.end, hole.start + 10), 5.0) for hole in holes]
    spans = choose_spans(10 * count, providers, devices)
    assert not gaps(10 * count, with_own(providers, spans))
    assert all(len(span) <= device.capacity for span, device in zip(spans, devices, strict=True))
