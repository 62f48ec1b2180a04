"""A compact Llama for training, with the tensor names of transformers' LlamaForCausalLM."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

RMS_EPSILON = 1e-5
ROPE_THETA = 10000.0


@dataclass(frozen=True, slots=True)
class Shape:
    """The model's size; `vocab` is set by the tokenizer that was trained."""

    vocab: int = 2048
    hidden: int = 192
    intermediate: int = 512
    blocks: int = 10
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 32
    context: int = 1024

    def __post_init__(self) -> None:
        if min(self.vocab, self.hidden, self.intermediate, self.blocks, self.kv_heads, self.context) < 1:
            raise ValueError("every size of the model must be positive")
        if self.heads % self.kv_heads or self.head_dim % 2:
            raise ValueError("heads must be a multiple of kv_heads, and head_dim even")


class RMSNorm(nn.Module):
    """Root mean square layer normalisation (Zhang and Sennrich, 2019)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), RMS_EPSILON)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions (Su et al., 2021; rotating halves, like Llama)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = nn.Linear(shape.hidden, shape.heads * shape.head_dim, bias=False)
        self.k_proj = nn.Linear(shape.hidden, shape.kv_heads * shape.head_dim, bias=False)
        self.v_proj = nn.Linear(shape.hidden, shape.kv_heads * shape.head_dim, bias=False)
        self.o_proj = nn.Linear(shape.heads * shape.head_dim, shape.hidden, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        rows, length, _ = x.shape
        shape = self.shape
        query = self.q_proj(x).view(rows, length, shape.heads, shape.head_dim).transpose(1, 2)
        key = self.k_proj(x).view(rows, length, shape.kv_heads, shape.head_dim).transpose(1, 2)
        value = self.v_proj(x).view(rows, length, shape.kv_heads, shape.head_dim).transpose(1, 2)
        query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
        repeat = shape.heads // shape.kv_heads
        key, value = key.repeat_interleave(repeat, dim=1), value.repeat_interleave(repeat, dim=1)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        out: torch.Tensor = self.o_proj(mixed.transpose(1, 2).reshape(rows, length, -1))
        return out


class MLP(nn.Module):
    """The gated feed-forward layer (SwiGLU; Shazeer, 2020)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.down_proj = nn.Linear(shape.intermediate, shape.hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    """One decoder layer; `dropout` acts on what it adds to the residual stream."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden)
        self.mlp = MLP(shape)
        self.dropout = dropout

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + F.dropout(self.self_attn(self.input_layernorm(x), cos, sin), self.dropout, self.training)
        return x + F.dropout(self.mlp(self.post_attention_layernorm(x)), self.dropout, self.training)


class Body(nn.Module):
    """Embedding, blocks and final norm: what transformers calls `model`."""

    def __init__(self, shape: Shape, dropout: float) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList(Block(shape, dropout) for _ in range(shape.blocks))
        self.norm = RMSNorm(shape.hidden)


class Llama(nn.Module):
    """A Llama whose head is its embedding. `state_dict` names and shapes are those of the exported file."""

    def __init__(self, shape: Shape, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.model = Body(shape, dropout)
        cos, sin = _rope_tables(shape)
        self.cos: torch.Tensor
        self.sin: torch.Tensor
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [rows, length, vocab] of token ids [rows, length], length at most the context."""
        length = tokens.shape[1]
        cos, sin = self.cos[:length], self.sin[:length]
        x = self.model.embed_tokens(tokens)
        for block in self.model.layers:
            x = block(x, cos, sin)
        return F.linear(self.model.norm(x), self.model.embed_tokens.weight)

    def initialise(self, generator: torch.Generator) -> None:
        """Normal weights; what feeds the residual stream is scaled down by depth (GPT-2's initialisation)."""
        std = 0.5 / math.sqrt(self.shape.hidden)
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                continue
            into_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
            scale = 1 / math.sqrt(2 * self.shape.blocks) if into_residual else 1.0
            nn.init.normal_(parameter, std=std * scale, generator=generator)

    def n_parameters(self) -> int:
        """Parameters, the shared embedding counted once."""
        return sum(parameter.numel() for parameter in self.parameters())


def _rope_tables(shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    frequencies = ROPE_THETA ** -(torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim)
    angles = torch.outer(torch.arange(shape.context, dtype=torch.float32), frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x * cos + turned * sin).to(x.dtype)
