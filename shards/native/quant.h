// Linear layers over weights of 2 to 8 bits. Each is widened to the very float32 that it stands for before it is used:
// in registers for up to eight rows, into a small buffer for more. So results have the bits that widened weights would give.
#pragma once

#include "linear.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace mesh {

constexpr int kSlice = 32;         // inputs that are widened together
constexpr int kWidenedInputs = 256;
constexpr int kPortion = kVectorBytes == 32 ? 1 : 2;  // 8 x 1 sums of 16 registers with AVX2, 8 x 2 of 32 elsewhere

// A panel is group after group of inputs. A group begins with numbers that its weights are scaled by, and goes on with
// whole numbers, slice after slice: Bytes or Bits.

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

// Signed bytes; compilers make a detour of `__builtin_convertvector` from so few.
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
MESH_INLINE Vec load_small(const char *from) {
  Vec out;
  MESH_EACH out.part[i] = __builtin_convertvector(load_bytes(from + i * kPerPart), FloatPart);
  return out;
}

// [input][kPanel] bytes.
struct Bytes {
  static constexpr int kSliceBytes = kSlice * kPanel;

  MESH_INLINE static FloatPart values(const char *slice, int input, int lane) {
    return __builtin_convertvector(load_bytes(slice + input * kPanel + lane), FloatPart);
  }
  static float one(const char *slice, int64_t input, int64_t lane) {
    return float(((const int8_t *)slice)[input * kPanel + lane]);
  }
};

// [input][kPanel] floats of eight bits: a sign, four bits of exponent and three of fraction (E4M3, no infinities). Put
// where a float32 has these they are 2^120 too small, also those below the smallest normal one.
struct Floats8 {
  static constexpr int kSliceBytes = kSlice * kPanel;

  MESH_INLINE static FloatPart values(const char *slice, int input, int lane) {
    const WordPart word = (WordPart)load_bytes(slice + input * kPanel + lane);  // the sign is in all upper bits
    return (FloatPart)((word << 20) & 0x87f00000u) * 0x1p120f;
  }
  static float one(const char *slice, int64_t input, int64_t lane) {
    const uint32_t word = uint32_t(int32_t(((const int8_t *)slice)[input * kPanel + lane])) << 20 & 0x87f00000u;
    float value;
    std::memcpy(&value, &word, 4);
    return value * 0x1p120f;
  }
};

// Words of 32 bits. [4][kPanel] have the lowest four bits of eight inputs each, the first input's lowest; where EXTRA is
// not 0, [EXTRA][kPanel] have the next EXTRA bits of 32 / EXTRA inputs each.
template <int EXTRA> struct Bits {
  static constexpr int kSliceBytes = (4 + EXTRA) * kPanel * 4;

  MESH_INLINE static FloatPart values(const char *slice, int input, int lane) {
    const WordPart low = *(const LooseWord *)(slice + 4 * (input / 8 * kPanel + lane));
    WordPart out = (low >> (input % 8 * 4)) & 15u;
    if constexpr (EXTRA > 0) {
      constexpr int kEach = 32 / EXTRA;
      const WordPart high = *(const LooseWord *)(slice + 4 * ((4 + input / kEach) * kPanel + lane));
      out |= ((high >> (input % kEach * EXTRA)) & ((1u << EXTRA) - 1)) << 4;
    }
    return __builtin_convertvector((IntPart)out, FloatPart);
  }
  static float one(const char *slice, int64_t input, int64_t lane) {
    uint32_t low, high = 0;
    std::memcpy(&low, slice + 4 * (input / 8 * kPanel + lane), 4);
    if constexpr (EXTRA > 0) {
      constexpr int kEach = 32 / EXTRA;
      std::memcpy(&high, slice + 4 * ((4 + input / kEach) * kPanel + lane), 4);
      high = (high >> (input % kEach * EXTRA)) & ((1u << EXTRA) - 1);
    }
    return float(((low >> (input % 8 * 4)) & 15u) | high << 4);
  }
};

// A group is a slice: [kPanel] scales in float16, and as many offsets where OFFSETS.
template <bool OFFSETS> struct Halves {
  static constexpr int kSlices = 1, kSub = kSlice;
  static constexpr int kHead = (OFFSETS ? 4 : 2) * kPanel;
  Vec scale, offset;

  MESH_INLINE void enter(const char *group, int, int lane) {
    scale = load_halves(group + 2 * lane);
    if constexpr (OFFSETS) offset = load_halves(group + 2 * (kPanel + lane));
  }
  MESH_INLINE FloatPart apply(FloatPart whole, int i) const {
    if constexpr (OFFSETS) return whole * scale.part[i] + offset.part[i];
    return whole * scale.part[i];
  }
  static float one(const char *group, int64_t, int64_t lane, float whole) {
    return OFFSETS ? whole * widen_half(group + 2 * lane) + widen_half(group + 2 * (kPanel + lane))
                   : whole * widen_half(group + 2 * lane);
  }
};

// A group is 256 inputs, whose subgroups of SUB have scales of their own, signed bytes [256 / SUB][kPanel], times a
// float16 of the group. Where BIAS is not 0 it is taken off the whole numbers; else there is a second such pair, of what
// is taken off the products: [kPanel] float16 and [256 / SUB][kPanel] bytes.
template <int SUB, int BIAS> struct Super {
  static constexpr int kSlices = 8, kSub = SUB, kSubs = 256 / SUB;
  static constexpr int kHead = (2 + kSubs) * kPanel * (BIAS ? 1 : 2);
  Vec scale, offset;

  MESH_INLINE void enter(const char *group, int sub, int lane) {
    scale = load_halves(group + 2 * lane) * load_small(group + (2 + sub) * kPanel + lane);
    if constexpr (BIAS) {
      offset = scale * all(float(-BIAS));
    } else {
      const char *second = group + (2 + kSubs) * kPanel;
      offset = load_halves(second + 2 * lane) * load_small(second + (2 + sub) * kPanel + lane) * all(-1.0f);
    }
  }
  MESH_INLINE FloatPart apply(FloatPart whole, int i) const { return whole * scale.part[i] + offset.part[i]; }
  static float one(const char *group, int64_t sub, int64_t lane, float whole) {
    const float scale = widen_half(group + 2 * lane) * float(((const int8_t *)group)[(2 + sub) * kPanel + lane]);
    if (BIAS) return (whole - float(BIAS)) * scale;
    const char *second = group + (2 + kSubs) * kPanel;
    return whole * scale -
           widen_half(second + 2 * lane) * float(((const int8_t *)second)[(2 + sub) * kPanel + lane]);
  }
};

// A group is SLICES slices: [kPanel] scales in float32, and where ZEROS as many signed bytes that are taken off the
// numbers first: any float32 scale gives the bits of (number - zero) * scale, which one fused operation would not.
template <int SLICES, bool ZEROS> struct Shifted {
  static constexpr int kSlices = SLICES, kSub = kSlice;
  static constexpr int kHead = (ZEROS ? 5 : 4) * kPanel;
  Vec scale, zero;

  MESH_INLINE void enter(const char *group, int, int lane) {
    scale = load((const float *)(group + 4 * lane));
    if constexpr (ZEROS) zero = load_small(group + 4 * kPanel + lane);
  }
  MESH_INLINE FloatPart apply(FloatPart value, int i) const {
    if constexpr (ZEROS) return (value - zero.part[i]) * scale.part[i];
    return value * scale.part[i];
  }
  static float one(const char *group, int64_t, int64_t lane, float value) {
    float scale;
    std::memcpy(&scale, group + 4 * lane, 4);
    return ZEROS ? (value - float(((const int8_t *)group)[4 * kPanel + lane])) * scale : value * scale;
  }
};

template <class SCALES, class NUMBERS> struct Form {
  using Scales = SCALES;
  using Numbers = NUMBERS;
  static constexpr int kInputs = Scales::kSlices * kSlice;
  static constexpr int kBytes = Scales::kHead + Scales::kSlices * Numbers::kSliceBytes;
};

// Calls `with` with the form of a type of weights; false where it is none of these.
template <class With> MESH_INLINE bool with_form(int64_t type, With with) {
  switch (type) {
    case kQ8_0: with(Form<Halves<false>, Bytes>{}); return true;
    case kQ4: with(Form<Halves<true>, Bits<0>>{}); return true;
    case kQ5: with(Form<Halves<true>, Bits<1>>{}); return true;
    case kQ2K: with(Form<Super<16, 0>, Bits<0>>{}); return true;
    case kQ3K: with(Form<Super<16, 4>, Bits<0>>{}); return true;
    case kQ4K: with(Form<Super<32, 0>, Bits<0>>{}); return true;
    case kQ5K: with(Form<Super<32, 0>, Bits<1>>{}); return true;
    case kQ6K: with(Form<Super<16, 32>, Bits<2>>{}); return true;
    case kI4_32: with(Form<Shifted<1, true>, Bits<0>>{}); return true;
    case kI4_128: with(Form<Shifted<4, true>, Bits<0>>{}); return true;
    case kI8_32: with(Form<Shifted<1, true>, Bytes>{}); return true;
    case kI8_128: with(Form<Shifted<4, true>, Bytes>{}); return true;
    case kF8_32: with(Form<Shifted<1, false>, Floats8>{}); return true;
    case kF8_128: with(Form<Shifted<4, false>, Floats8>{}); return true;
    default: return false;
  }
}
MESH_INLINE bool is_quantised(const Matrix &m) { return m.type != kFloat32 && m.type != kBfloat16; }

// The inputs of a slice in order, each with the weights of PARTS parts from LANE on: of one panel, or half of them of a
// second that lies `next` bytes further.
template <class F, int PANELS, int PARTS, int LANE = 0, class Use>
MESH_INLINE void widen_slice(const char *group, int64_t next, int slice, Use use) {
  constexpr int kEach = PARTS / PANELS, kSub = F::Scales::kSub;
  const char *numbers = group + F::Scales::kHead + slice * F::Numbers::kSliceBytes;
  for (int begin = 0; begin < kSlice; begin += kSub) {
    typename F::Scales scales[PARTS];
    for (int p = 0; p < PARTS; p++)
      scales[p].enter(group + p / kEach * next, (slice * kSlice + begin) / kSub,
                      (LANE + p % kEach * kPerPart) / kLanes * kLanes);
    constexpr int kUnrolled = kSub < 8 ? kSub : 8;
    for (int eight = 0; eight < kSub; eight += kUnrolled)
#pragma GCC unroll 8
      for (int n = 0; n < kUnrolled; n++) {
        const int input = begin + eight + n;
        FloatPart w[PARTS];
        for (int p = 0; p < PARTS; p++) {
          const int lane = LANE + p % kEach * kPerPart;
          const FloatPart value = F::Numbers::values(numbers + p / kEach * next, input, lane);
          w[p] = scales[p].apply(value, lane % kLanes / kPerPart);
        }
        use(input, w);
      }
  }
}

// Panels of weights, `next` bytes apart where PANELS is 2: the sums of one would wait for each other.
template <class F, int PANELS = 1> struct QuantPanel {
  const char *panel;
  int64_t next = 0;

  template <int ROWS, int VECS>
  MESH_INLINE void accumulate(const float *x, int64_t stride, int64_t depth, Vec (&sums)[ROWS][VECS]) const {
    const char *group = panel;
    for (int64_t k = 0; k < depth; k += F::kInputs, group += F::kBytes)
      for (int slice = 0; slice < F::Scales::kSlices; slice++) {
        const float *at = x + k + slice * kSlice;
        widen_slice<F, PANELS, VECS * kParts>(group, next, slice, [&](int input, const FloatPart(&w)[VECS * kParts]) {
          for (int r = 0; r < ROWS; r++)
            for (int v = 0; v < VECS; v++)
              MESH_EACH sums[r][v].part[i] += at[r * stride + input] * w[v * kParts + i];
        });
      }
  }
};

// A portion of a panel for more rows: their sums are as many as the registers can hold beside what is widened.
template <class F, int ROWS, int LANE>
inline void portion_rows(const char *panel, int64_t depth, const float *x, int64_t stride, float *out) {
  FloatPart sums[ROWS][kPortion] = {};
  const char *group = panel;
  for (int64_t k = 0; k < depth; k += F::kInputs, group += F::kBytes)
    for (int slice = 0; slice < F::Scales::kSlices; slice++) {
      const float *at = x + k + slice * kSlice;
      widen_slice<F, 1, kPortion, LANE>(group, 0, slice, [&](int input, const FloatPart(&w)[kPortion]) {
        for (int r = 0; r < ROWS; r++)
          for (int p = 0; p < kPortion; p++) sums[r][p] += at[r * stride + input] * w[p];
      });
    }
  for (int r = 0; r < ROWS; r++)
    for (int p = 0; p < kPortion; p++) *(LooseFloat *)(out + r * kPanel + LANE + p * kPerPart) = sums[r][p];
  constexpr int kNext = LANE + kPortion * kPerPart;
  if constexpr (kNext < kPanel) portion_rows<F, ROWS, kNext>(panel, depth, x, stride, out);
}

template <class F, int ROWS>
inline void register_rows(const char *panel, int64_t depth, const float *x, int64_t stride, float *out) {
  micro<ROWS, kPanelVecs>(x, stride, QuantPanel<F>{panel}, depth, out, kPanel, true);
}

template <class F>
inline void quant_product(const char *panel, int64_t depth, const float *x, int64_t stride, int64_t rows, float *out) {
  static_assert(kWidenedInputs % F::kInputs == 0, "whole groups are widened");
  switch (rows) {
    case 1: return register_rows<F, 1>(panel, depth, x, stride, out);
    case 2: return register_rows<F, 2>(panel, depth, x, stride, out);
    case 3: return register_rows<F, 3>(panel, depth, x, stride, out);
    case 4: return register_rows<F, 4>(panel, depth, x, stride, out);
    case 5: return portion_rows<F, 5, 0>(panel, depth, x, stride, out);
    case 6: return portion_rows<F, 6, 0>(panel, depth, x, stride, out);
    case 7: return portion_rows<F, 7, 0>(panel, depth, x, stride, out);
    case 8: return portion_rows<F, 8, 0>(panel, depth, x, stride, out);
  }
  alignas(64) float wide[kWidenedInputs * kPanel];
  for (int64_t k = 0; k < depth; k += kWidenedInputs) {
    const int64_t count = depth - k < kWidenedInputs ? depth - k : kWidenedInputs;
    float *to = wide;
    for (int64_t i = 0; i < count; i += kSlice, to += kSlice * kPanel)
      widen_slice<F, 1, kPanel / kPerPart>(
          panel + (k + i) / F::kInputs * F::kBytes, 0, int((k + i) % F::kInputs / kSlice),
          [&](int input, const FloatPart(&w)[kPanel / kPerPart]) {
            for (int p = 0; p < kPanel / kPerPart; p++)
              *(LooseFloat *)(to + input * kPanel + p * kPerPart) = w[p];
          });
    for (int64_t row = 0, n; row < rows; row += n) {
      n = tile_rows(rows - row);
      const FloatPanel<0, 1> at{wide, nullptr};
      micro_rows<kPanelVecs>(n, x + row * stride + k, stride, at, count, out + row * kPanel, kPanel, k == 0);
    }
  }
}

// As those of linear.h, whatever the weights' type.
inline void panel_product(const Matrix &m, int64_t panel, const float *x, int64_t stride, int64_t rows, float *out) {
  const bool done = with_form(m.type, [&](auto form) {
    using F = decltype(form);
    quant_product<F>((const char *)m.panels + panel * (m.inputs / F::kInputs) * F::kBytes, m.inputs, x, stride, rows,
                     out);
  });
  if (!done) plain_product(m, panel, x, stride, rows, out);
}

inline void pair_product(const Matrix &m, int64_t panel, int64_t next, const float *x, int64_t stride, int64_t rows,
                         float *out) {
  const bool done = with_form(m.type, [&](auto form) {
    using F = decltype(form);
    const int64_t bytes = m.inputs / F::kInputs * F::kBytes;
    const QuantPanel<F, 2> at{(const char *)m.panels + panel * bytes, next * bytes};
    if (rows == 1)
      micro<1, 2 * kPanelVecs>(x, stride, at, m.inputs, out, 2 * kPanel, true);
    else
      micro<2, 2 * kPanelVecs>(x, stride, at, m.inputs, out, 2 * kPanel, true);
  });
  if (!done) plain_pair(m, panel, next, x, stride, rows, out);
}

// The weights of one output.
inline void read_output(const Matrix &m, int64_t output, float *to) {
  with_form(m.type, [&](auto form) {
    using F = decltype(form);
    const int64_t panel = output / kPanel, lane = output % kPanel;
    const char *groups = (const char *)m.panels + panel * (m.inputs / F::kInputs) * F::kBytes;
    for (int64_t i = 0; i < m.inputs; i++) {
      const char *group = groups + i / F::kInputs * F::kBytes;
      const int64_t at = i % F::kInputs;
      const char *slice = group + F::Scales::kHead + at / kSlice * F::Numbers::kSliceBytes;
      to[i] = F::Scales::one(group, at / F::Scales::kSub, lane, F::Numbers::one(slice, at % kSlice, lane));
    }
  });
}

}  // namespace mesh
