// Linear layers over packed weights. Every output is the sum over the inputs in ascending order in float32, one fused
// multiply-add each, whatever the number of rows: so a row's bits do not depend on what shares its pass.
#pragma once

#include "simd.h"

namespace mesh {

#if defined(__AVX512F__)
constexpr int kPanelVecs = 4;  // 6 x 4 sums, 4 weights and 1 input fill 29 of 32 registers
#else
constexpr int kPanelVecs = 1;  // 6 x 2 of 16 registers with AVX2, 6 x 4 of 32 with NEON
#endif
constexpr int kPanel = kPanelVecs * kLanes;
constexpr int kTileRows = 6;
constexpr int kInputBlock = 128;  // inputs whose weights stay in the first-level cache while row after row uses them
constexpr int kRowBlock = 240;
constexpr int kAhead = 2048;  // bytes
constexpr int kPairRows = 2;

enum WeightType {
  kFloat32, kBfloat16, kQ8_0, kQ4, kQ5, kQ2K, kQ3K, kQ4K, kQ5K, kQ6K,  // from the third on: quant.h
  kI4_32, kI4_128, kI8_32, kI8_128, kF8_32, kF8_128,
};

// Weights of [outputs, inputs] as panels of kPanel outputs. float32: [panel][input][kPanel]. bfloat16:
// [panel][input / 2][kPanel][2], inputs padded with zeros to a multiple of 32.
struct Matrix {
  const void *panels;
  const float *bias;  // [outputs], or null
  int64_t inputs;
  int64_t outputs;
  int64_t type;
  const int32_t *order;  // [inputs]: which input each is multiplied with, or null where they follow one another
};

// Rows of the next tile, where `left` are to be done: none is much smaller than the others.
MESH_INLINE int64_t tile_rows(int64_t left) {
  const int64_t tiles = (left + kTileRows - 1) / kTileRows;
  return (left + tiles - 1) / tiles;
}
MESH_INLINE int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }
MESH_INLINE int64_t panels_of(const Matrix &m) { return (m.outputs + kPanel - 1) / kPanel; }
MESH_INLINE int64_t depth_of(const Matrix &m) { return m.type == kBfloat16 ? round_up(m.inputs, 32) : m.inputs; }

// sums[ROWS][VECS] over `depth` inputs from `x` (rows `stride` apart), continued from `out` unless `fresh`.
template <int ROWS, int VECS, class Weights>
MESH_INLINE void micro(const float *x, int64_t stride, Weights weights, int64_t depth, float *out, int64_t out_stride,
                       bool fresh) {
  Vec sums[ROWS][VECS];
  for (int r = 0; r < ROWS; r++)
    for (int v = 0; v < VECS; v++) sums[r][v] = fresh ? all(0.0f) : load(out + r * out_stride + v * kLanes);
  weights.template accumulate<ROWS, VECS>(x, stride, depth, sums);
  for (int r = 0; r < ROWS; r++)
    for (int v = 0; v < VECS; v++) store(out + r * out_stride + v * kLanes, sums[r][v]);
}

template <int VECS, class Weights>
MESH_INLINE void micro_rows(int64_t rows, const float *x, int64_t stride, Weights weights, int64_t depth, float *out,
                            int64_t out_stride, bool fresh) {
  switch (rows) {
    case 1: return micro<1, VECS>(x, stride, weights, depth, out, out_stride, fresh);
    case 2: return micro<2, VECS>(x, stride, weights, depth, out, out_stride, fresh);
    case 3: return micro<3, VECS>(x, stride, weights, depth, out, out_stride, fresh);
    case 4: return micro<4, VECS>(x, stride, weights, depth, out, out_stride, fresh);
    case 5: return micro<5, VECS>(x, stride, weights, depth, out, out_stride, fresh);
    default: return micro<6, VECS>(x, stride, weights, depth, out, out_stride, fresh);
  }
}

// Panels of weights, `next` bytes apart where PANELS is 2. While computing, LINES cache lines per step of the inputs
// are fetched of what comes next.
template <int LINES, int PANELS = 1> struct FloatPanel {
  using Weight = float;
  const float *panel;
  const char *ahead;
  int64_t next = 0;

  template <int ROWS, int VECS>
  MESH_INLINE void accumulate(const float *x, int64_t stride, int64_t depth, Vec (&sums)[ROWS][VECS]) const {
    constexpr int kEach = VECS / PANELS;
    for (int64_t k = 0; k < depth; k++) {
      for (int p = 0; p < PANELS; p++)
        for (int i = 0; i < LINES; i++) __builtin_prefetch(ahead + p * next + (k * LINES + i) * 64);
      Vec w[VECS];
      for (int v = 0; v < VECS; v++)
        w[v] = load((const float *)((const char *)panel + v / kEach * next) + k * kPanel + v % kEach * kLanes);
      if (ROWS > 1)
        for (int v = 0; v < VECS; v++) keep(w[v]);
      for (int r = 0; r < ROWS; r++) {
        float value = x[r * stride + k];
        for (int v = 0; v < VECS; v++) add_product(sums[r][v], value, w[v]);
      }
    }
  }
};

template <int LINES, int PANELS = 1> struct HalfPanel {
  using Weight = Bf16;
  const Bf16 *panel;
  const char *ahead;
  int64_t next = 0;

  template <int ROWS, int VECS>
  MESH_INLINE void accumulate(const float *x, int64_t stride, int64_t depth, Vec (&sums)[ROWS][VECS]) const {
    constexpr int kEach = VECS / PANELS;
    for (int64_t k = 0; k < depth; k += 2) {
      for (int p = 0; p < PANELS; p++)
        for (int i = 0; i < LINES; i++) __builtin_prefetch(ahead + p * next + (k / 2 * LINES + i) * 64);
      const Bf16 *at[PANELS];
      for (int p = 0; p < PANELS; p++) at[p] = (const Bf16 *)((const char *)panel + p * next) + k * kPanel;
      Vec w[VECS];
      for (int v = 0; v < VECS; v++) w[v] = load_even(at[v / kEach] + 2 * (v % kEach) * kLanes);
      for (int r = 0; r < ROWS; r++) {
        float value = x[r * stride + k];
        for (int v = 0; v < VECS; v++) add_product(sums[r][v], value, w[v]);
      }
      for (int v = 0; v < VECS; v++) w[v] = load_odd(at[v / kEach] + 2 * (v % kEach) * kLanes);
      for (int r = 0; r < ROWS; r++) {
        float value = x[r * stride + k + 1];
        for (int v = 0; v < VECS; v++) add_product(sums[r][v], value, w[v]);
      }
    }
  }
};

// Two panels `next` panels apart for one or two rows. Memory is what limits, and two streams run faster than one: 16.5
// against 15.3 GB/s (13 where a single stream is also prefetched by instruction) of one core of a Xeon. `out` is
// [rows][2 kPanel].
template <template <int, int> class Panel>
inline void pair_product(const typename Panel<0, 1>::Weight *panel, int64_t depth, int64_t next, const float *x,
                         int64_t stride, int64_t rows, float *out) {
  const int64_t bytes = next * depth * kPanel * int64_t(sizeof(*panel));
  Panel<kPanelVecs, 2> at{panel, (const char *)panel + kAhead, bytes};
  if (rows == 1)
    micro<1, 2 * kPanelVecs>(x, stride, at, depth, out, 2 * kPanel, true);
  else
    micro<2, 2 * kPanelVecs>(x, stride, at, depth, out, 2 * kPanel, true);
}

// `out` [rows][kPanel] = one panel's outputs for `rows` rows of `x` (`stride` floats apart, zeros up to the depth).
template <template <int, int> class Panel>
inline void panel_product(const typename Panel<0, 1>::Weight *panel, int64_t depth, const float *x, int64_t stride,
                          int64_t rows, float *out) {
  if (rows <= kTileRows) {
    Panel<kPanelVecs, 1> at{panel, (const char *)panel + kAhead};
    return micro_rows<kPanelVecs>(rows, x, stride, at, depth, out, kPanel, true);
  }
  for (int64_t k = 0; k < depth; k += kInputBlock) {
    const int64_t count = depth - k < kInputBlock ? depth - k : kInputBlock;
    const auto *weights = panel + k * kPanel;
    const char *ahead = (const char *)(weights + kInputBlock * kPanel);
    for (int64_t row = 0, tile = 0, n; row < rows; row += n, tile++) {
      n = tile_rows(rows - row);
      const float *from = x + row * stride + k;
      float *to = out + row * kPanel;
      if (tile < kPanelVecs) {  // the first tiles fetch the next block, a line per step each
        Panel<1, 1> at{weights, ahead + tile * kInputBlock * 64 * sizeof(*weights) / 4};
        micro_rows<kPanelVecs>(n, from, stride, at, count, to, kPanel, k == 0);
      } else {
        micro_rows<kPanelVecs>(n, from, stride, Panel<0, 1>{weights, nullptr}, count, to, kPanel, k == 0);
      }
    }
  }
}

inline void plain_pair(const Matrix &m, int64_t panel, int64_t next, const float *x, int64_t stride, int64_t rows,
                         float *out) {
  const int64_t depth = depth_of(m), at = panel * depth * kPanel;
  if (m.type == kBfloat16)
    pair_product<HalfPanel>((const Bf16 *)m.panels + at, depth, next, x, stride, rows, out);
  else
    pair_product<FloatPanel>((const float *)m.panels + at, depth, next, x, stride, rows, out);
}

inline void plain_product(const Matrix &m, int64_t panel, const float *x, int64_t stride, int64_t rows, float *out) {
  const int64_t depth = depth_of(m), at = panel * depth * kPanel;
  if (m.type == kBfloat16)
    panel_product<HalfPanel>((const Bf16 *)m.panels + at, depth, x, stride, rows, out);
  else
    panel_product<FloatPanel>((const float *)m.panels + at, depth, x, stride, rows, out);
}

}  // namespace mesh
