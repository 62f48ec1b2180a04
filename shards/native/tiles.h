// bfloat16 products on the matrix unit (Intel AMX), for inputs that are rounded to bfloat16. A row's sums are made by the
// same instructions in the same order whatever rows lie beside it.
#pragma once

#include "linear.h"

#if defined(__AMX_BF16__) && defined(__AMX_TILE__) && defined(__AVX512F__) && defined(__linux__)
#define MESH_TILES 1
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace mesh {

#ifdef MESH_TILES

// The kernel lets a process use the tiles once it has asked.
inline bool have_tiles() {
  static const bool granted = syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */) == 0;
  return granted;
}

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t column_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Tiles 0 to 3 hold sums (0 and 1 of `first` rows, 2 and 3 of `second`), 4 and 5 inputs, 6 and 7 weights.
inline void configure_tiles(int first, int second) {
  TileConfig config;
  const int rows[8] = {first, first, second, second, first, second, 16, 16};
  for (int i = 0; i < 8; i++) {
    config.column_bytes[i] = 64;
    config.rows[i] = uint8_t(rows[i]);
  }
  _tile_loadconfig(&config);
}

inline void release_tiles() { _tile_release(); }

// Up to 16 rows: the four quarters of a panel at once.
inline void few_rows(const Bf16 *panel, int64_t depth, const Bf16 *x, int64_t stride, float *out) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t k = 0; k < depth; k += 32) {
    const Bf16 *w = panel + k * kPanel;
    for (int line = 0; line < 64; line++) _mm_prefetch((const char *)w + kAhead + line * 64, _MM_HINT_T0);
    _tile_loadd(4, x + k, int(stride * 2));
    _tile_loadd(6, w, kPanel * 4);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, w + 32, kPanel * 4);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(6, w + 64, kPanel * 4);
    _tile_dpbf16ps(2, 4, 6);
    _tile_loadd(7, w + 96, kPanel * 4);
    _tile_dpbf16ps(3, 4, 7);
  }
  _tile_stored(0, out, kPanel * 4);
  _tile_stored(1, out + 16, kPanel * 4);
  _tile_stored(2, out + 32, kPanel * 4);
  _tile_stored(3, out + 48, kPanel * 4);
}

// 17 to 32 rows, half a panel.
inline void many_rows(const Bf16 *half, int64_t depth, const Bf16 *x, int64_t stride, float *out) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const Bf16 *below = x + 16 * stride;
  for (int64_t k = 0; k < depth; k += 32) {
    const Bf16 *w = half + k * kPanel;
    _tile_loadd(4, x + k, int(stride * 2));
    _tile_loadd(6, w, kPanel * 4);
    _tile_loadd(7, w + 32, kPanel * 4);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, below + k, int(stride * 2));
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, out, kPanel * 4);
  _tile_stored(1, out + 16, kPanel * 4);
  _tile_stored(2, out + 16 * kPanel, kPanel * 4);
  _tile_stored(3, out + 16 * kPanel + 16, kPanel * 4);
}

inline void panel_product(const Matrix &m, int64_t panel, const Bf16 *x, int64_t stride, int64_t rows, float *out) {
  const int64_t depth = depth_of(m);
  const Bf16 *weights = (const Bf16 *)m.panels + panel * depth * kPanel;
  int64_t row = 0;
  if (rows >= 32) configure_tiles(16, 16);
  for (; rows - row >= 32; row += 32) {
    many_rows(weights, depth, x + row * stride, stride, out + row * kPanel);
    many_rows(weights + 64, depth, x + row * stride, stride, out + row * kPanel + 32);
  }
  if (rows - row > 16) {
    configure_tiles(16, int(rows - row - 16));
    many_rows(weights, depth, x + row * stride, stride, out + row * kPanel);
    many_rows(weights + 64, depth, x + row * stride, stride, out + row * kPanel + 32);
  } else if (rows > row) {
    configure_tiles(int(rows - row), int(rows - row));
    few_rows(weights, depth, x + row * stride, stride, out + row * kPanel);
  }
}

#else

inline bool have_tiles() { return false; }
inline void release_tiles() {}

// Never reached: Python asks for rounded inputs only where there are tiles.
inline void panel_product(const Matrix &, int64_t, const Bf16 *, int64_t, int64_t, float *) {}

#endif

}  // namespace mesh
