// Where a linear layer's outputs go: called with one row's sums for one panel of outputs.
#pragma once

#include <algorithm>

#include "linear.h"

namespace mesh {

// They are written, `width` of them.
struct Plain {
  float *out;
  int64_t stride, width;
  MESH_INLINE void operator()(int64_t row, int64_t column, const float *values, const Matrix &m) const {
    const int64_t count = std::min<int64_t>(kPanel, width - column);
    float *to = out + row * stride + column;
    for (int64_t i = 0; i < count; i++) to[i] = values[i];
    if (m.bias)
      for (int64_t i = 0; i < std::min(count, m.outputs - column); i++) to[i] += m.bias[column + i];
  }
};

// They are added to what is there.
struct Added {
  float *out;
  int64_t width;
  MESH_INLINE void operator()(int64_t row, int64_t column, const float *values, const Matrix &m) const {
    const int64_t count = std::min<int64_t>(kPanel, width - column);
    float *to = out + row * width + column;
    if (m.bias)
      for (int64_t i = 0; i < count; i++) to[i] += values[i] + m.bias[column + i];
    else
      for (int64_t i = 0; i < count; i++) to[i] += values[i];
  }
};

}  // namespace mesh
