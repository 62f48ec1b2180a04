"""The native kernels compute what the torch path does, for any shape, and a row's bits depend on nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.model.blocks import Blocks, Rows
from shards.model.experts import ExpertWeights
from shards.model.experts_config import ClampedGate, ExpertsConfig
from shards.model.linear import Linear
from shards.model.native_blocks import NativeBlocks
from shards.model.native_config import ACTIVATIONS, NativeConfig
from shards.model.packing import LinearPacker, PackedLinear, WeightMemory
from shards.model.pages import pages_for
from shards.model.rope_config import LongRope, RopeConfig
from shards.model.span import Span
from shards.model.torch_blocks import TorchBlocks
from shards.model.weights import BlockWeights, DenseWeights, SpanWeights
from shards.native.library import Library, native_library

CPU = torch.device("cpu")
L = TypeVar("L")
MEMORY = WeightMemory()


@pytest.fixture(scope="module")
def library() -> Library:
    found = native_library()
    if found is None:
        pytest.skip("no native kernels on this machine")
    return found


@dataclass(frozen=True, slots=True)
class Part:
    """One linear layer's parts before they are laid out."""

    weights: list[torch.Tensor]
    biases: list[torch.Tensor] | None

    def plain(self) -> Linear:
        return Linear(torch.cat(self.weights), None if self.biases is None else torch.cat(self.biases), pack=False)

    def packed(self, panel: int, dtype: torch.dtype, *, halves: bool = False) -> PackedLinear:
        packer = LinearPacker(
            [weight.shape[0] for weight in self.weights],
            self.weights[0].shape[1],
            panel=panel,
            dtype=dtype,
            bias=self.biases is not None,
            whole_panels=halves,
            memory=MEMORY,
        )
        for index, weight in enumerate(self.weights):
            packer.weight(index, weight)
            if self.biases is not None:
                packer.bias(index, self.biases[index])
        return packer.done()


def config_of(
    *,
    heads: int = 6,
    kv_heads: int = 2,
    dim: int = 16,
    hidden: int = 96,
    inner: int = 80,
    vocab: int = 130,
    windows: tuple[int | None, ...] = (None, None),
    bias: bool = False,
    qk_norm: bool = False,
    tied: bool = True,
    gemma: bool = False,
    activation: str = "silu",
    turned: int | None = None,
    experts: ExpertsConfig | None = None,
    sinks: bool = False,
) -> NativeConfig:
    """`gemma` turns on what its models do; `turned` numbers of each head are, by frequencies as LongRoPE has them."""
    long = None if turned is None else LongRope((1.25,) * (turned // 2), 1.1, 1000)
    return NativeConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        n_heads=heads,
        n_kv_heads=kv_heads,
        head_dim=dim,
        vocab_size=vocab,
        n_blocks=len(windows),
        rms_eps=1e-5,
        rope=RopeConfig(1e4, long=long, rotary_dim=turned),
        windows=windows,
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=bias,
        qk_norm=qk_norm,
        tied=tied,
        local_rope=RopeConfig(100.0, linear_factor=1.5, rotary_dim=turned) if gemma else None,
        activation=activation,
        query_scalar=dim + 3.0 if gemma else None,
        score_cap=2.0 if gemma else None,
        logit_cap=3.0 if gemma else None,
        embedding_scale=hidden**0.5 if gemma else 1.0,
        output_norms=gemma,
        experts=experts,
        sinks=sinks,
    )


MIXTURE = ExpertsConfig(7, 3, 40, normalised=True, bias=False, gate=None, blocks=(True, False))
GATED = ExpertsConfig(4, 2, 33, normalised=False, bias=True, gate=ClampedGate(1.7, 1.5), blocks=(True, True))


def both(library: Library, config: NativeConfig, stored: torch.dtype, dtype: torch.dtype) -> tuple[Blocks, Blocks]:
    """The same random model on the torch path in float32 and on the kernels, weights rounded to `stored`."""
    generator = torch.Generator().manual_seed(7)

    def random(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).mul_(scale).to(stored).float()

    def part(sizes: Sequence[int], width: int, *, bias: bool) -> Part:
        weights = [random(size, width, scale=1.3 / width**0.5) for size in sizes]
        return Part(weights, [random(size, scale=0.3) for size in sizes] if bias else None)

    hidden, inner, dim, experts = config.hidden_size, config.intermediate_size, config.head_dim, config.experts
    plain: list[BlockWeights[Linear]] = []
    packed: list[BlockWeights[PackedLinear]] = []
    for block in range(config.n_blocks):
        norms = [random(hidden).abs_().add_(0.5) for _ in range(4)]
        out_norms = norms[2:] if config.output_norms else (None, None)
        heads = [config.n_heads * dim, config.n_kv_heads * dim, config.n_kv_heads * dim]
        qkv, o = part(heads, hidden, bias=config.qkv_bias), part([hidden], heads[0], bias=config.o_bias)
        layers = experts if experts is not None and experts.blocks[block] else None
        if layers is None:
            mlps = [(part([inner] * 2, hidden, bias=config.mlp_bias), part([hidden], inner, bias=config.mlp_bias))]
        else:
            mlps = [
                (part([layers.inner] * 2, hidden, bias=layers.bias), part([hidden], layers.inner, bias=layers.bias))
                for _ in range(layers.count)
            ]
        router = None if layers is None else part([layers.count], hidden, bias=layers.bias)
        sinks = random(config.n_heads) if config.sinks else None
        qk_norm = None
        if config.qk_norm:
            rows = [random(dim).add_(1.0).expand(n, -1) for n in (config.n_heads, config.n_kv_heads)]
            qk_norm = torch.cat(rows)
        panel = library.panel
        wide = [(gate_up.plain(), down.plain()) for gate_up, down in mlps]
        narrow = [(gate_up.packed(panel, stored, halves=True), down.packed(panel, stored)) for gate_up, down in mlps]
        plain.append(
            BlockWeights(
                norms[0],
                [qkv.plain()],
                qk_norm,
                o.plain(),
                norms[1],
                mlp_of(None if router is None else router.plain(), wide),
                sinks,
                *out_norms,
            )
        )
        packed.append(
            BlockWeights(
                norms[0],
                [qkv.packed(panel, stored)],
                qk_norm,
                o.packed(panel, stored),
                norms[1],
                mlp_of(None if router is None else router.packed(panel, stored), narrow),
                sinks,
                *out_norms,
            )
        )
    table, final_norm = random(config.vocab_size, hidden), random(hidden).abs_().add_(0.5)
    head = Part([table if config.tied else random(config.vocab_size, hidden, scale=0.2)], None)
    span = Span(0, config.n_blocks)
    embedding = None if config.tied else table.to(stored)
    torch_side = SpanWeights(plain, table, final_norm, head.plain())
    native_side = SpanWeights(packed, embedding, final_norm, head.packed(library.panel, stored))
    return (
        TorchBlocks(config, span, torch_side, device=CPU, dtype=torch.float32),
        NativeBlocks(library, config, span, native_side, dtype=dtype),
    )


def mlp_of(router: L | None, layers: Sequence[tuple[L, L]]) -> DenseWeights[L] | ExpertWeights[L]:
    if router is None:
        return DenseWeights(*layers[0])
    return ExpertWeights(router, [gate_up for gate_up, _ in layers], [down for _, down in layers])


class Runner:
    """Sessions on one `Blocks`; each has its own pages, scattered over the pool."""

    def __init__(self, blocks: Blocks, layers: int, sessions: int, capacity: int) -> None:
        count = pages_for(capacity)
        blocks.allocate(sessions * count)
        order = torch.randperm(sessions * count, generator=torch.Generator().manual_seed(3)).tolist()
        self._blocks, self._span = blocks, Span(0, layers)
        self._tables = [order[index * count : (index + 1) * count] for index in range(sessions)]
        self.lengths = [0] * sessions

    def step(self, parts: Sequence[tuple[int, torch.Tensor]]) -> list[torch.Tensor]:
        """The next tokens of some sessions in one pass; logits of every row."""
        sizes = [len(tokens) for _, tokens in parts]
        rows = Rows(
            self._span,
            torch.cat([tokens for _, tokens in parts]),
            [self.lengths[index] for index, _ in parts],
            sizes,
            [self._tables[index] for index, _ in parts],
            list(range(sum(sizes))),
        )
        for (index, _), size in zip(parts, sizes, strict=True):
            self.lengths[index] += size
        with torch.inference_mode():
            return list(self._blocks.run(rows).split_with_sizes(sizes))


def tokens_of(seed: int, count: int, vocab: int) -> torch.Tensor:
    return torch.randint(0, vocab, (count,), generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kv_heads=st.integers(1, 3),
    group=st.sampled_from((1, 2, 3, 5, 8)),
    dim=st.sampled_from((2, 10, 16, 20, 32, 40, 64, 80, 96, 112, 128)),
    hidden=st.integers(1, 200),
    inner=st.integers(1, 200),
    vocab=st.integers(1, 200),
    window=st.none() | st.integers(1, 60),
    bias=st.booleans(),
    qk_norm=st.booleans(),
    tied=st.booleans(),
    gemma=st.booleans(),
    activation=st.sampled_from(ACTIVATIONS),
    part=st.booleans(),
    experts=st.none()
    | st.builds(
        ExpertsConfig,
        count=st.just(9),
        chosen=st.integers(1, 9),
        inner=st.integers(1, 100),
        normalised=st.booleans(),
        bias=st.booleans(),
        gate=st.none() | st.just(ClampedGate(1.7, 1.2)),
        blocks=st.tuples(st.booleans(), st.booleans()),
    ),
    sinks=st.booleans(),
    stored=st.sampled_from((torch.float32, torch.bfloat16)),
    chunks=st.lists(st.integers(1, 45), min_size=1, max_size=3),
)
def test_any_shape_gives_what_the_torch_path_gives(
    library: Library,
    kv_heads: int,
    group: int,
    dim: int,
    hidden: int,
    inner: int,
    vocab: int,
    window: int | None,
    bias: bool,
    qk_norm: bool,
    tied: bool,
    gemma: bool,
    activation: str,
    part: bool,
    experts: ExpertsConfig | None,
    sinks: bool,
    stored: torch.dtype,
    chunks: list[int],
) -> None:
    config = config_of(
        heads=kv_heads * group,
        kv_heads=kv_heads,
        dim=dim,
        hidden=hidden,
        inner=inner,
        vocab=vocab,
        windows=(window, None),
        bias=bias,
        qk_norm=qk_norm,
        tied=tied,
        gemma=gemma,
        activation=activation,
        turned=max(2, dim // 4 * 2) if part else None,
        experts=None if gemma else experts,  # no family norms what its experts give
        sinks=sinks,
    )
    expected, found = (Runner(blocks, 2, 2, 150) for blocks in both(library, config, stored, torch.float32))
    for number, size in enumerate(chunks):
        parts = [(0, tokens_of(number, size, vocab)), (1, tokens_of(number + 50, 1 + size // 2, vocab))]
        for ours, theirs in zip(found.step(parts), expected.step(parts), strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-4 * float(theirs.abs().max() + 1), rtol=0)


STORAGE = [
    pytest.param(torch.float32, torch.float32, id="float32"),
    pytest.param(torch.bfloat16, torch.float32, id="bfloat16 weights in float32"),
    pytest.param(torch.bfloat16, torch.bfloat16, id="bfloat16"),
]


@pytest.mark.parametrize(("stored", "dtype"), STORAGE)
@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"dim": 40, "kv_heads": 6, "hidden": 100, "inner": 201, "windows": (37, None)},
        {"hidden": 100, "inner": 201, "windows": (37, None), "gemma": True, "activation": "gelu_pytorch_tanh"},
        {"dim": 40, "turned": 22},
        {"experts": MIXTURE},
        {"experts": GATED, "sinks": True, "hidden": 100, "windows": (37, None)},
    ],
    ids=["dense", "odd", "gemma", "partly turned", "experts", "experts and sinks"],
)
def test_a_rows_bits_are_the_same_alone_in_company_in_any_chunks_and_on_two_threads(
    library: Library, stored: torch.dtype, dtype: torch.dtype, shape: dict[str, object]
) -> None:
    config = config_of(**shape)  # type: ignore[arg-type]
    _, blocks = both(library, config, stored, dtype)
    length = 300
    own = tokens_of(1, length, config.vocab_size)

    def alone(sizes: Sequence[int]) -> torch.Tensor:
        runner = Runner(blocks, 2, 1, length)
        return torch.cat([runner.step([(0, part)])[0] for part in own.split_with_sizes(list(sizes))])

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one_by_one = alone([1] * length)
        for sizes in ([300], [7, 16, 17, 1, 33, 226], [255, 45], [5] * 60):
            assert torch.equal(alone(sizes), one_by_one), f"chunks of {sizes}"
        torch.set_num_threads(2)
        assert torch.equal(alone([1] * length), one_by_one)
        assert torch.equal(alone([120, 180]), one_by_one)
        for count in (1, 2):
            torch.set_num_threads(count)
            runner = Runner(blocks, 2, 32, length)
            found = []
            for at in range(40):
                others = [(i, tokens_of(100 * i + at, 1 + (i * at) % 4, config.vocab_size)) for i in range(1, 32)]
                place = at % 32
                parts = [*others[:place], (0, own[at : at + 1]), *others[place:]]
                found.append(runner.step(parts)[place])
            assert torch.equal(torch.cat(found), one_by_one[:40])
    finally:
        torch.set_num_threads(threads)


def test_bfloat16_stays_near_float32(library: Library) -> None:
    config = config_of(hidden=128, inner=256)
    tokens = tokens_of(5, 60, config.vocab_size)
    outputs = [
        Runner(both(library, config, torch.bfloat16, dtype)[1], 2, 1, 60).step([(0, tokens)])[0]
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert torch.nn.functional.cosine_similarity(*outputs).min() > 0.999


def test_hidden_states_that_come_in_are_left_as_they_were(library: Library) -> None:
    config = config_of()
    _, blocks = both(library, config, torch.float32, torch.float32)
    blocks.allocate(1)
    x = torch.randn(3, config.hidden_size)
    before = x.clone()
    first = blocks.run(Rows(Span(1, 2), x, [0], [3], [[0]], None))
    assert torch.equal(x, before) and not torch.equal(first, before)
