// Linear layers over weights of 8 or 4 bits. Each is widened to the very float32 that it stands for before it is used:
// in registers for a few rows, into a small buffer for many. So results have the bits that widened weights would give.
#pragma once

#include "linear.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace mesh {

constexpr int kGroup = 32;  // inputs that share a scale
constexpr int kRegisterRows = 4;  // whose sums leave registers to widen in
static_assert(kInputBlock % kGroup == 0, "blocks of inputs are whole groups");

// A panel, group after group:
//   8 bits: [kPanel] scales in float16, then [input][kPanel] bytes
//   4 bits: [kPanel] scales and [kPanel] offsets in float16, then [4][kPanel] words of 32 bits: the eight inputs from
//           8 q on are in the nibbles of word q, the first in the lowest
MESH_INLINE bool is_quantised(const Matrix &m) { return m.type == kInt8 || m.type == kInt4; }
MESH_INLINE int64_t groups_of(const Matrix &m) { return m.inputs / kGroup; }

// Compilers make a detour of `__builtin_convertvector` from so few bytes.
MESH_INLINE IntPart load_bytes(const char *from) {
#if defined(__AVX512F__)
  return (IntPart)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from));
#elif defined(__AVX2__)
  return (IntPart)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from));
#else
  IntPart out;
  for (int i = 0; i < kPerPart; i++) out[i] = ((const int8_t *)from)[i];
  return out;
#endif
}

MESH_INLINE float widen_half(const char *from) {
  _Float16 half;
  std::memcpy(&half, from, 2);
  return float(half);
}

MESH_INLINE Vec load_halves(const char *from) {
#if defined(__AVX512F__)
  return Vec{{(FloatPart)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from))}};
#elif defined(__AVX2__) && defined(__F16C__)
  return Vec{{(FloatPart)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from)),
              (FloatPart)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + 16)))}};
#else
  float values[kLanes];
  for (int i = 0; i < kLanes; i++) values[i] = widen_half(from + 2 * i);
  return load(values);
#endif
}

struct Bytes {
  static constexpr int kHead = 2 * kPanel, kGroupBytes = kHead + kGroup * kPanel;
  static constexpr int kSteps = kGroup, kStepBytes = kPanel, kStepInputs = 1;
  Vec scale[kPanelVecs];

  MESH_INLINE void begin(const char *group) {
    for (int v = 0; v < kPanelVecs; v++) scale[v] = load_halves(group + 2 * v * kLanes);
  }
  MESH_INLINE Vec weights(const char *step, int v, int) const {
    Vec out;
    MESH_EACH {
      const IntPart whole = load_bytes(step + v * kLanes + i * kPerPart);
      out.part[i] = __builtin_convertvector(whole, FloatPart) * scale[v].part[i];
    }
    return out;
  }
  static float one(const char *group, int64_t input, int64_t lane) {
    return widen_half(group + 2 * lane) * float(((const int8_t *)group)[kHead + input * kPanel + lane]);
  }
};

struct Nibbles {
  static constexpr int kHead = 4 * kPanel, kGroupBytes = kHead + kGroup / 2 * kPanel;
  static constexpr int kSteps = kGroup / 8, kStepBytes = 4 * kPanel, kStepInputs = 8;
  Vec scale[kPanelVecs], offset[kPanelVecs];

  MESH_INLINE void begin(const char *group) {
    for (int v = 0; v < kPanelVecs; v++) {
      scale[v] = load_halves(group + 2 * v * kLanes);
      offset[v] = load_halves(group + 2 * kPanel + 2 * v * kLanes);
    }
  }
  MESH_INLINE Vec weights(const char *step, int v, int n) const {
    Vec out;
    MESH_EACH {
      const WordPart words = *(const LooseWord *)(step + 4 * (v * kLanes + i * kPerPart));
      const IntPart whole = (IntPart)((words >> (4 * n)) & 15u);
      out.part[i] = __builtin_convertvector(whole, FloatPart) * scale[v].part[i] + offset[v].part[i];
    }
    return out;
  }
  static float one(const char *group, int64_t input, int64_t lane) {
    uint32_t word;
    std::memcpy(&word, group + kHead + (input / 8 * kPanel + lane) * 4, 4);
    return widen_half(group + 2 * lane) * float((word >> (input % 8 * 4)) & 15u) +
           widen_half(group + 2 * kPanel + 2 * lane);
  }
};

// Panels of weights, `next` bytes apart where PANELS is 2: the sums of one would wait for each other.
template <class Form, int PANELS = 1> struct QuantPanel {
  const char *panel;
  int64_t next = 0;

  template <int ROWS, int VECS>
  MESH_INLINE void accumulate(const float *x, int64_t stride, int64_t depth, Vec (&sums)[ROWS][VECS]) const {
    constexpr int kEach = VECS / PANELS;
    const char *group = panel;
    for (int64_t k = 0; k < depth; k += kGroup, group += Form::kGroupBytes) {
      Form forms[PANELS];
      for (int p = 0; p < PANELS; p++) forms[p].begin(group + p * next);
      for (int step = 0; step < Form::kSteps; step++) {
        const char *words = group + Form::kHead + step * Form::kStepBytes;
#pragma GCC unroll 8
        for (int n = 0; n < Form::kStepInputs; n++) {
          Vec w[VECS];
          for (int v = 0; v < VECS; v++) w[v] = forms[v / kEach].weights(words + v / kEach * next, v % kEach, n);
          const float *at = x + k + step * Form::kStepInputs + n;
          for (int r = 0; r < ROWS; r++)
            for (int v = 0; v < VECS; v++) add_product(sums[r][v], at[r * stride], w[v]);
        }
      }
    }
  }
};

// `to` [inputs][kPanel] = some whole groups of a panel.
template <class Form> inline void widen_groups(const char *group, int64_t inputs, float *to) {
  for (int64_t k = 0; k < inputs; k += kGroup, group += Form::kGroupBytes) {
    Form form;
    form.begin(group);
    for (int step = 0; step < Form::kSteps; step++)
      for (int n = 0; n < Form::kStepInputs; n++, to += kPanel)
        for (int v = 0; v < kPanelVecs; v++)
          store(to + v * kLanes, form.weights(group + Form::kHead + step * Form::kStepBytes, v, n));
  }
}

template <class Form>
inline void quant_product(const char *panel, int64_t depth, const float *x, int64_t stride, int64_t rows, float *out) {
  if (rows <= kRegisterRows)
    return micro_rows<kPanelVecs>(rows, x, stride, QuantPanel<Form>{panel}, depth, out, kPanel, true);
  alignas(64) float block[kInputBlock * kPanel];
  for (int64_t k = 0; k < depth; k += kInputBlock) {
    const int64_t count = depth - k < kInputBlock ? depth - k : kInputBlock;
    widen_groups<Form>(panel + k / kGroup * Form::kGroupBytes, count, block);
    for (int64_t row = 0, n; row < rows; row += n) {
      n = tile_rows(rows - row);
      const FloatPanel<0, 1> at{block, nullptr};
      micro_rows<kPanelVecs>(n, x + row * stride + k, stride, at, count, out + row * kPanel, kPanel, k == 0);
    }
  }
}

template <class Form>
inline void quant_pair(const char *panel, int64_t depth, int64_t next, const float *x, int64_t stride, int64_t rows,
                       float *out) {
  const QuantPanel<Form, 2> at{panel, next};
  if (rows == 1)
    micro<1, 2 * kPanelVecs>(x, stride, at, depth, out, 2 * kPanel, true);
  else
    micro<2, 2 * kPanelVecs>(x, stride, at, depth, out, 2 * kPanel, true);
}

// As those of linear.h, whatever the weights' type.
inline void panel_product(const Matrix &m, int64_t panel, const float *x, int64_t stride, int64_t rows, float *out) {
  const int64_t groups = groups_of(m);
  if (m.type == kInt8)
    quant_product<Bytes>((const char *)m.panels + panel * groups * Bytes::kGroupBytes, m.inputs, x, stride, rows, out);
  else if (m.type == kInt4)
    quant_product<Nibbles>((const char *)m.panels + panel * groups * Nibbles::kGroupBytes, m.inputs, x, stride, rows,
                           out);
  else
    plain_product(m, panel, x, stride, rows, out);
}

inline void pair_product(const Matrix &m, int64_t panel, int64_t next, const float *x, int64_t stride, int64_t rows,
                         float *out) {
  const int64_t bytes = groups_of(m) * (m.type == kInt8 ? Bytes::kGroupBytes : Nibbles::kGroupBytes);
  const char *at = (const char *)m.panels + panel * bytes;
  if (m.type == kInt8)
    quant_pair<Bytes>(at, m.inputs, next * bytes, x, stride, rows, out);
  else if (m.type == kInt4)
    quant_pair<Nibbles>(at, m.inputs, next * bytes, x, stride, rows, out);
  else
    plain_pair(m, panel, next, x, stride, rows, out);
}

// The weights of one output.
inline void read_output(const Matrix &m, int64_t output, float *to) {
  const int64_t panel = output / kPanel, lane = output % kPanel;
  for (int64_t i = 0; i < m.inputs; i++) {
    const int64_t group = panel * groups_of(m) + i / kGroup;
    to[i] = m.type == kInt8 ? Bytes::one((const char *)m.panels + group * Bytes::kGroupBytes, i % kGroup, lane)
                            : Nibbles::one((const char *)m.panels + group * Nibbles::kGroupBytes, i % kGroup, lane);
  }
}

}  // namespace mesh
