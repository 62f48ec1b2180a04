"""The native extension as Python sees it: its structures, and the one library that a process loads."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import struct
from ctypes import Structure, c_double, c_int64, c_void_p

from shards.native.build import NativeUnavailable, built_library

logger = logging.getLogger(__name__)

FLOAT32, BFLOAT16, Q8_0, Q4, Q5, Q2K, Q3K, Q4K, Q5K, Q6K = range(10)
MAX_ROPES = 2
"""Rotary embeddings that the blocks of a model can have (`kRopes` of interface.h)."""
I4_32, I4_128, I8_32, I8_128, F8_32, F8_128 = range(10, 16)


class Matrix(Structure):
    """Packed weights of one linear layer (see linear.h)."""

    _fields_ = (
        ("panels", c_void_p),
        ("bias", c_void_p),
        ("inputs", c_int64),
        ("outputs", c_int64),
        ("type", c_int64),
        ("order", c_void_p),
    )


class ExpertsDesc(Structure):
    """What the experts of all blocks have in common (see experts.h)."""

    _fields_ = (
        ("count", c_int64),
        ("chosen", c_int64),
        ("inner", c_int64),
        ("normalises", c_int64),
        ("slope", c_double),
        ("limit", c_double),
    )


class BlockDesc(Structure):
    """One block's weights and its keys and values (this and what follows: interface.h)."""

    _fields_ = (
        ("attention_norm", c_void_p),
        ("query_norm", c_void_p),
        ("key_norm", c_void_p),
        ("mlp_norm", c_void_p),
        ("attention_out_norm", c_void_p),
        ("mlp_out_norm", c_void_p),
        ("qkv", Matrix * 3),
        ("o", Matrix),
        ("gate_up", Matrix),
        ("down", Matrix),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("window", c_int64),
        ("qkv_parts", c_int64),
        ("rope", c_int64),
        ("sinks", c_void_p),
        ("router", Matrix),
        ("expert_gate_up", ctypes.POINTER(Matrix)),
        ("expert_down", ctypes.POINTER(Matrix)),
    )


class StageDesc(Structure):
    """A stage's shape and weights."""

    _fields_ = (
        ("hidden", c_int64),
        ("inner", c_int64),
        ("heads", c_int64),
        ("kv_heads", c_int64),
        ("head_dim", c_int64),
        ("vocab", c_int64),
        ("blocks", c_int64),
        ("cache_type", c_int64),
        ("rounds_inputs", c_int64),
        ("rotary_dim", c_int64),
        ("activation", c_int64),
        ("eps", c_double),
        ("attention_scale", c_double),
        ("score_cap", c_double),
        ("logit_cap", c_double),
        ("embedding_scale", c_double),
        ("block", ctypes.POINTER(BlockDesc)),
        ("final_norm", c_void_p),
        ("head", Matrix),
        ("embedding", c_void_p),
        ("embedding_type", c_int64),
        ("table", Matrix),
        ("experts", ExpertsDesc),
    )


class Batch(Structure):
    """One pass: rows of several sessions, one session's after another's."""

    _fields_ = (
        ("threads", c_int64),
        ("rows", c_int64),
        ("pieces", c_int64),
        ("first_block", c_int64),
        ("last_block", c_int64),
        ("tokens", c_void_p),
        ("x", c_void_p),
        ("piece_rows", c_void_p),
        ("piece_start", c_void_p),
        ("tables", c_void_p),
        ("table_start", c_void_p),
        ("cosines", c_void_p * MAX_ROPES),
        ("sines", c_void_p * MAX_ROPES),
        ("wanted", c_int64),
        ("wanted_rows", c_void_p),
        ("logits", c_void_p),
    )


class Library:
    """The loaded extension. Calls release the interpreter's lock."""

    def __init__(self, path: str) -> None:
        try:
            self._c = ctypes.CDLL(path)
            self._new, self._delete = self._c.mesh_stage_new, self._c.mesh_stage_delete
            self._forward, panel = self._c.mesh_stage_forward, self._c.mesh_panel
            amx = self._c.mesh_has_tiles
        except (OSError, AttributeError) as error:
            raise NativeUnavailable(f"cannot load {path}: {error}") from error
        self._new.restype, self._new.argtypes = c_void_p, (ctypes.POINTER(StageDesc),)
        self._delete.restype, self._delete.argtypes = None, (c_void_p,)
        self._forward.restype, self._forward.argtypes = c_int64, (c_void_p, ctypes.POINTER(Batch))
        panel.restype, panel.argtypes = c_int64, ()
        amx.restype, amx.argtypes = c_int64, ()
        self.panel = int(panel())
        """Outputs of a panel of packed weights."""
        self.has_tiles = bool(amx())
        """True where bfloat16 products run on the processor's matrix unit."""

    def new_stage(self, desc: StageDesc) -> int:
        """A stage over the weights that `desc` points to. Raises `MemoryError`."""
        handle = self._new(ctypes.byref(desc))
        if not handle:
            raise MemoryError("no memory for a native stage")
        return int(handle)

    def delete_stage(self, handle: int) -> None:
        """Give a stage back; not while it computes."""
        self._delete(handle)

    def forward(self, handle: int, batch: Batch) -> None:
        """One pass. Raises `MemoryError` where there was no room for what it computes with."""
        if self._forward(handle, ctypes.byref(batch)):
            raise MemoryError("no memory for a native pass")


@functools.cache
def native_library() -> Library | None:
    """The extension, or None where it is turned off (MESH_NATIVE=0) or cannot be had; the log says why, once."""
    if os.environ.get("MESH_NATIVE") == "0":
        logger.info("native kernels are turned off (MESH_NATIVE=0): computing with torch")
        return None
    try:
        if struct.calcsize("P") != 8:
            raise NativeUnavailable("needs a 64-bit process")
        return Library(str(built_library()))
    except NativeUnavailable as error:
        logger.warning("no native kernels, computing with torch, which is slower: %s", error)
        return None
