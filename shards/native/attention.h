// Attention of a few rows of one session over its pages, the heads that share a key-value head together. A row's
// result depends on its own position only: scores, their maximum, the sum by lanes and the values go in page order.
#pragma once

#include "linear.h"

namespace mesh {

constexpr int kPage = 16;  // tokens of a page: as many as lanes, so that a page's scores are one vector
static_assert(kPage == kLanes, "a page's scores are one vector");

constexpr int kWidePages = 8;  // pages of bfloat16 that are widened once for all rows of a tile
constexpr int32_t kInOrder[kWidePages] = {0, 1, 2, 3, 4, 5, 6, 7};

// Keys of VECS pages, each [head_dim][kPage]: the scores of one row against all of them.
template <class T, int PAGES> struct KeyPages {
  const T *page[PAGES];

  template <int ROWS, int VECS>
  MESH_INLINE void accumulate(const float *x, int64_t stride, int64_t depth, Vec (&sums)[ROWS][VECS]) const {
    for (int64_t k = 0; k < depth; k++) {
      Vec w[VECS];
      for (int v = 0; v < VECS; v++) w[v] = load(page[v] + k * kPage);
      for (int r = 0; r < ROWS; r++) {
        float value = x[r * stride + k];
        for (int v = 0; v < VECS; v++) add_product(sums[r][v], value, w[v]);
      }
    }
  }
};

// Values over many pages, each [kPage][head_dim]; `depth` counts tokens from the first page's first.
template <class T> struct ValuePages {
  const T *values;
  const int32_t *table;
  int64_t page_stride, dim;
  int last;  // lanes of the last vector: fewer than kLanes where head_dim is no multiple of it

  template <int ROWS, int VECS>
  MESH_INLINE void accumulate(const float *x, int64_t stride, int64_t depth, Vec (&sums)[ROWS][VECS]) const {
    for (int64_t begin = 0; begin < depth; begin += kPage) {
      const T *page = values + table[begin / kPage] * page_stride;
      const int64_t end = depth - begin < kPage ? depth - begin : kPage;
      for (int64_t k = 0; k < end; k++) {
        Vec w[VECS];
        for (int v = 0; v < VECS; v++) {
          const T *at = page + k * dim + v * kLanes;
          w[v] = VECS == 1 && last < kLanes ? load_some(at, last) : load(at);
        }
        for (int r = 0; r < ROWS; r++) {
          float value = x[r * stride + begin + k];
          for (int v = 0; v < VECS; v++) add_product(sums[r][v], value, w[v]);
        }
      }
    }
  }
};

// Rows `[0, rows)` are the `group` heads of consecutive tokens from position `start`.
struct AttentionTile {
  const float *query;    // [rows][dim], already scaled
  float *scores;         // [rows][score_stride], scratch
  float *out;            // [rows][round_up(dim, kLanes)]
  int64_t rows, group, start, dim, score_stride;
  int64_t window;        // positions seen, or 0 for all before
  const int32_t *table;  // the session's pages
  int64_t page_stride;   // elements from one page to the next
  float *wide;           // [kWidePages][kPage][dim], scratch
  float cap;             // of scores, softly; or 0
  const float *sinks;    // [group], or null
};

MESH_INLINE int64_t first_seen(int64_t position, int64_t window) {
  return window && position + 1 > window ? position + 1 - window : 0;
}

// Scores of one row become probabilities: over those that it sees, others 0. `first_page` is where scores begin. A `sink`
// competes with them and leads to no value.
inline void softmax_row(float *scores, int64_t first_page, int64_t pages, int64_t position, int64_t window, float cap,
                        const float *sink) {
  const int64_t low = first_seen(position, window), begin = low / kPage, end = position / kPage + 1;
  float *own = scores + (begin - first_page) * kPage;
  for (float *at = scores; at < own; at += kPage) store(at, all(0.0f));
  for (float *at = scores + (end - first_page) * kPage; at < scores + pages * kPage; at += kPage) store(at, all(0.0f));
  if (cap != 0.0f)
    for (int64_t page = 0; page < end - begin; page++)
      store(own + page * kPage, soft_cap(load(own + page * kPage), cap));
  const float none = -__builtin_inff();
  for (int64_t p = begin * kPage; p < low; p++) scores[p - first_page * kPage] = none;
  for (int64_t p = position + 1; p < end * kPage; p++) scores[p - first_page * kPage] = none;
  Vec most = load(own);
  for (int64_t page = 1; page < end - begin; page++) most = larger(most, load(own + page * kPage));
  if (sink) most = larger(most, all(*sink));
  const Vec top = all(-largest(most));
  Vec total = all(0.0f);
  for (int64_t page = 0; page < end - begin; page++) {
    Vec power = exponential(load(own + page * kPage) + top);
    store(own + page * kPage, power);
    total = total + power;
  }
  float of = sum(total);
  if (sink) of += largest(exponential(all(*sink) + top));
  const Vec scale = all(1.0f / of);
  for (int64_t page = 0; page < end - begin; page++) store(own + page * kPage, load(own + page * kPage) * scale);
}

inline const float *widen_page(const float *page, int64_t, float *) { return page; }
inline const float *widen_page(const Bf16 *page, int64_t count, float *to) {
  for (int64_t i = 0; i < count; i += kLanes) store(to + i, load(page + i));
  return to;
}

// Scores of all rows against PAGES pages.
template <int PAGES, class T>
inline void score(const AttentionTile &tile, const KeyPages<T, PAGES> &keys, float *scores) {
  for (int64_t row = 0; row < tile.rows; row += kTileRows) {
    const int64_t n = tile.rows - row < kTileRows ? tile.rows - row : kTileRows;
    micro_rows<PAGES>(n, tile.query + row * tile.dim, tile.dim, keys, tile.dim, scores + row * tile.score_stride,
                      tile.score_stride, true);
  }
}

// Weights of `depth` tokens, from `weights` on, times their values, for all rows.
template <class T>
inline void mix(const AttentionTile &tile, const float *weights, int64_t depth, const T *values, const int32_t *table,
                int64_t page_stride, bool fresh) {
  const int64_t out_stride = round_up(tile.dim, kLanes);
  for (int64_t at = 0; at < tile.dim;) {
    const int64_t left = tile.dim - at;
    const bool wide = left >= kPanel;
    const ValuePages<T> from{values + at, table, page_stride, tile.dim, left < kLanes ? int(left) : kLanes};
    for (int64_t row = 0; row < tile.rows; row += kTileRows) {
      const int64_t n = tile.rows - row < kTileRows ? tile.rows - row : kTileRows;
      const float *x = weights + row * tile.score_stride;
      float *to = tile.out + row * out_stride + at;
      if (wide)
        micro_rows<kPanelVecs>(n, x, tile.score_stride, from, depth, to, out_stride, fresh);
      else
        micro_rows<1>(n, x, tile.score_stride, from, depth, to, out_stride, fresh);
    }
    at += wide ? kPanel : kLanes;
  }
}

template <class T> inline void attend(const AttentionTile &tile, const T *keys, const T *values) {
  const int64_t last = tile.start + (tile.rows - 1) / tile.group;
  const int64_t first_page = first_seen(tile.start, tile.window) / kPage, pages = last / kPage + 1 - first_page;
  const int32_t *table = tile.table + first_page;
  const bool widens = sizeof(T) < 4 && tile.rows > kTileRows;
  const int64_t size = kPage * tile.dim;
  for (int64_t page = 0; page < pages; page += kPanelVecs) {
    const int count = int(pages - page < kPanelVecs ? pages - page : kPanelVecs);
    float *scores = tile.scores + page * kPage;
    const T *from[kPanelVecs];
    for (int v = 0; v < count; v++) from[v] = keys + table[page + v] * tile.page_stride;
    if (widens) {
      KeyPages<float, kPanelVecs> at;
      for (int v = 0; v < count; v++) at.page[v] = widen_page(from[v], size, tile.wide + v * size);
      if (count == kPanelVecs)
        score(tile, at, scores);
      else
        for (int v = 0; v < count; v++) score(tile, KeyPages<float, 1>{{at.page[v]}}, scores + v * kPage);
    } else if (count == kPanelVecs) {
      KeyPages<T, kPanelVecs> at;
      for (int v = 0; v < count; v++) at.page[v] = from[v];
      score(tile, at, scores);
    } else {
      for (int v = 0; v < count; v++) score(tile, KeyPages<T, 1>{{from[v]}}, scores + v * kPage);
    }
  }
  for (int64_t row = 0; row < tile.rows; row++)
    softmax_row(tile.scores + row * tile.score_stride, first_page, pages, tile.start + row / tile.group, tile.window,
                tile.cap, tile.sinks ? tile.sinks + row % tile.group : nullptr);
  const int64_t depth = last + 1 - first_page * kPage;
  if (!widens) return mix(tile, tile.scores, depth, values, table, tile.page_stride, true);
  for (int64_t page = 0; page < pages; page += kWidePages) {
    const int64_t count = pages - page < kWidePages ? pages - page : kWidePages, left = depth - page * kPage;
    for (int64_t i = 0; i < count; i++)
      widen_page(values + table[page + i] * tile.page_stride, size, tile.wide + i * size);
    mix<float>(tile, tile.scores + page * kPage, left < count * kPage ? left : count * kPage, tile.wide, kInOrder, size,
               page == 0);
  }
}

}  // namespace mesh
