// Linear layers over the rows of a pass: how threads share them, and what becomes of their outputs.
#pragma once

#include <algorithm>
#include <type_traits>

#include "buffer.h"
#include "finish.h"
#include "pool.h"
#include "quant.h"
#include "tiles.h"

namespace mesh {

constexpr int64_t kTurns = 4;  // in which each thread takes its share of a layer

template <class Input> constexpr bool in_pairs(int64_t rows) {
  return std::is_same<Input, float>::value && rows <= kPairRows;
}

// Calls `run(first, end)` for neighbours: a thread takes several at a time, since the processor fetches ahead of it what
// comes next.
template <class Do> void each_run(Pool &pool, int64_t units, Do run) {
  const int64_t together = std::max<int64_t>(1, units / (kTurns * pool.threads()));
  for (int64_t first; (first = pool.take() * together) < units;) run(first, std::min(first + together, units));
}

template <class Do> void each_unit(Pool &pool, int64_t units, Do run) {
  each_run(pool, units, [&](int64_t first, int64_t end) {
    for (int64_t unit = first; unit < end; unit++) run(unit);
  });
}

// `finish(row, column, values, m)` gets a panel's outputs of a row, for `count` rows (at most kRowBlock) of `x` and the
// panels [first, end). `product` has room for kRowBlock of them.
template <class Input, class Finish>
void some_panels(const Matrix &m, int64_t first, int64_t end, const Input *x, int64_t stride, int64_t count,
                 float *product, Finish finish) {
  for (int64_t panel = first; panel < end;) {
    if constexpr (std::is_same<Input, float>::value)
      if (in_pairs<Input>(count) && panel + 1 < end) {
        pair_product(m, panel, 1, x, stride, count, product);
        for (int64_t i = 0; i < 2 * count; i++) finish(i / 2, (panel + i % 2) * kPanel, product + i * kPanel, m);
        panel += 2;
        continue;
      }
    panel_product(m, panel, x, stride, count, product);
    for (int64_t i = 0; i < count; i++) finish(i, panel * kPanel, product + i * kPanel, m);
    panel++;
  }
}

// A layer over `rows` rows of `x`, by all threads, which meet afterwards.
template <class Input, class Finish>
void linear(Pool &pool, float *product, const Matrix &m, const Input *x, int64_t stride, int64_t rows, Finish finish) {
  const int64_t panels = panels_of(m), parts = (rows + kRowBlock - 1) / kRowBlock;
  const int64_t width = in_pairs<Input>(rows) ? 2 : 1, units = (panels + width - 1) / width;
  each_unit(pool, units * parts, [&](int64_t unit) {
    const int64_t panel = unit % units * width, row = unit / units * kRowBlock;
    some_panels(m, panel, std::min(panel + width, panels), x + row * stride, stride,
                std::min<int64_t>(kRowBlock, rows - row), product,
                [&](int64_t i, int64_t column, const float *values, const Matrix &own) {
                  finish(row + i, column, values, own);
                });
  });
  pool.barrier();
}

}  // namespace mesh
