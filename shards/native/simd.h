// Sixteen floats as one value, written with the compiler's vector extension so that one source serves AVX-512, AVX2
// and NEON. A product that is added is one fused multiply-add (-ffp-contract=fast) wherever the machine has it.
#pragma once

#include <cstdint>
#include <cstring>

namespace mesh {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

constexpr int kLanes = 16;
constexpr int kPerPart = kVectorBytes / 4;
constexpr int kParts = kLanes / kPerPart;

typedef float FloatPart __attribute__((vector_size(kVectorBytes)));
typedef uint32_t WordPart __attribute__((vector_size(kVectorBytes)));
typedef int32_t IntPart __attribute__((vector_size(kVectorBytes)));
typedef uint16_t HalfPart __attribute__((vector_size(kVectorBytes / 2)));
typedef float LooseFloat __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
typedef uint32_t LooseWord __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
typedef uint16_t LooseHalf __attribute__((vector_size(kVectorBytes / 2), aligned(2), may_alias));

#define MESH_INLINE inline __attribute__((always_inline))

// A bfloat16 as it lies in memory: the upper half of a float.
struct Bf16 {
  uint16_t bits;
};

MESH_INLINE float widen(float value) { return value; }
MESH_INLINE float widen(Bf16 value) {
  uint32_t word = uint32_t(value.bits) << 16;
  float result;
  std::memcpy(&result, &word, 4);
  return result;
}

// To the nearest, ties to even; not-a-number stays so.
MESH_INLINE Bf16 narrow(float value) {
  uint32_t word;
  std::memcpy(&word, &value, 4);
  uint32_t rounded = (word + 0x7fffu + ((word >> 16) & 1)) >> 16;
  uint32_t nan = (word >> 16) | 0x40;
  return Bf16{uint16_t((word & 0x7fffffffu) > 0x7f800000u ? nan : rounded)};
}

MESH_INLINE void put(float *where, float value) { *where = value; }
MESH_INLINE void put(Bf16 *where, float value) { *where = narrow(value); }

struct Vec {
  FloatPart part[kParts];
};

#define MESH_EACH for (int i = 0; i < kParts; i++)

MESH_INLINE Vec all(float value) {
  Vec out;
  MESH_EACH out.part[i] = FloatPart{} + value;
  return out;
}
MESH_INLINE Vec load(const float *from) {
  Vec out;
  MESH_EACH out.part[i] = *(const LooseFloat *)(from + i * kPerPart);
  return out;
}
MESH_INLINE Vec load(const Bf16 *from) {
  Vec out;
  MESH_EACH {
    HalfPart raw = *(const LooseHalf *)(from + i * kPerPart);
    out.part[i] = (FloatPart)(__builtin_convertvector(raw, WordPart) << 16);
  }
  return out;
}
// Of sixteen pairs of bfloat16 the first, or the second, of each.
MESH_INLINE Vec load_even(const Bf16 *from) {
  Vec out;
  MESH_EACH out.part[i] = (FloatPart)(*(const LooseWord *)(from + 2 * i * kPerPart) << 16);
  return out;
}
MESH_INLINE Vec load_odd(const Bf16 *from) {
  Vec out;
  MESH_EACH out.part[i] = (FloatPart)(*(const LooseWord *)(from + 2 * i * kPerPart) & 0xffff0000u);
  return out;
}
template <class T> MESH_INLINE Vec load_some(const T *from, int count) {
  float values[kLanes] = {};
  for (int i = 0; i < count; i++) values[i] = widen(from[i]);
  return load(values);
}
MESH_INLINE void store(float *to, const Vec &value) {
  MESH_EACH *(LooseFloat *)(to + i * kPerPart) = value.part[i];
}
template <class T> MESH_INLINE void store_some(T *to, const Vec &value, int count) {
  float values[kLanes];
  store(values, value);
  for (int i = 0; i < count; i++) put(to + i, values[i]);
}
MESH_INLINE Vec operator+(const Vec &a, const Vec &b) {
  Vec out;
  MESH_EACH out.part[i] = a.part[i] + b.part[i];
  return out;
}
MESH_INLINE Vec operator*(const Vec &a, const Vec &b) {
  Vec out;
  MESH_EACH out.part[i] = a.part[i] * b.part[i];
  return out;
}
MESH_INLINE Vec operator/(const Vec &a, const Vec &b) {
  Vec out;
  MESH_EACH out.part[i] = a.part[i] / b.part[i];
  return out;
}
MESH_INLINE void add_product(Vec &sum, const Vec &a, const Vec &b) {
  MESH_EACH sum.part[i] += a.part[i] * b.part[i];
}
MESH_INLINE void add_product(Vec &sum, float a, const Vec &b) {
  MESH_EACH sum.part[i] += a * b.part[i];
}
MESH_INLINE Vec larger(const Vec &a, const Vec &b) {
  Vec out;
  MESH_EACH out.part[i] = a.part[i] > b.part[i] ? a.part[i] : b.part[i];
  return out;
}
MESH_INLINE Vec smaller(const Vec &a, const Vec &b) {
  Vec out;
  MESH_EACH out.part[i] = a.part[i] < b.part[i] ? a.part[i] : b.part[i];
  return out;
}

// In a register from here on: compilers load it again for each row that it is multiplied with.
MESH_INLINE void keep(Vec &value) {
#if defined(__x86_64__)
  MESH_EACH __asm__("" : "+v"(value.part[i]));
#else
  (void)value;
#endif
}

// Over the lanes in one fixed order: halves are folded onto each other.
MESH_INLINE float sum(const Vec &value) {
  float lane[kLanes];
  store(lane, value);
  for (int width = kLanes / 2; width; width /= 2)
    for (int i = 0; i < width; i++) lane[i] += lane[i + width];
  return lane[0];
}
MESH_INLINE float largest(const Vec &value) {
  float lane[kLanes];
  store(lane, value);
  for (int width = kLanes / 2; width; width /= 2)
    for (int i = 0; i < width; i++) lane[i] = lane[i] > lane[i + width] ? lane[i] : lane[i + width];
  return lane[0];
}

// x = n ln 2 + r with |r| <= ln 2 / 2: e^r - 1 by its minimax polynomial (Cephes' expf), and n as an exponent's bits.
MESH_INLINE FloatPart exponential_part(FloatPart value, IntPart &power) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to the nearest integer
  FloatPart shifted = value * 1.44269504088896341f + magic;
  FloatPart n = shifted - magic;
  FloatPart r = value - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  FloatPart p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  power = ((IntPart)shifted - (IntPart)(FloatPart{} + magic)) << 23;
  return p * (r * r) + r;
}

// e^x within 2 units in the last place; 0 below -87.3 and the largest power below infinity above 88.
MESH_INLINE Vec exponential(const Vec &x) {
  Vec out;
  MESH_EACH {
    FloatPart value = x.part[i];
    IntPart gone = value < -87.3f;
    value = value > 88.0f ? FloatPart{} + 88.0f : value;
    value = gone ? FloatPart{} - 87.3f : value;
    IntPart power;
    FloatPart p = exponential_part(value, power) + 1.0f;
    FloatPart result = (FloatPart)((IntPart)p + power);
    out.part[i] = gone ? FloatPart{} : result;
  }
  return out;
}

// cap tanh(x / cap), within a few units in the last place also near zero: tanh(y) = m / (m + 2) with m = e^2y - 1.
MESH_INLINE Vec soft_cap(const Vec &x, float cap) {
  Vec out;
  MESH_EACH {
    FloatPart value = x.part[i] * (2.0f / cap);
    value = value > 20.0f ? FloatPart{} + 20.0f : value;  // where tanh is 1
    value = value < -20.0f ? FloatPart{} - 20.0f : value;
    IntPart power;
    FloatPart part = exponential_part(value, power);
    FloatPart two = (FloatPart)((IntPart)(FloatPart{} + 1.0f) + power);
    FloatPart m = two * part + (two - 1.0f);
    out.part[i] = m / (m + 2.0f) * cap;
  }
  return out;
}

}  // namespace mesh
