// Mixtures of experts: which of a block's experts each row takes, and the rows of a pass in groups by expert. What a row
// takes, and the order in which its experts' outputs are added (by their number), depend on that row alone.
#pragma once

#include <atomic>

#include "interface.h"
#include "layers.h"

namespace mesh {

// Rows that go through the same weights, at most kRowBlock.
struct RowTile {
  int64_t expert, first, count;
};

// `rows` rows through one layer, which is number 0.
inline void tile_rows_of(int64_t expert, int64_t first, int64_t rows, std::vector<RowTile> &tiles) {
  for (int64_t at = 0; at < rows; at += kRowBlock)
    tiles.push_back(RowTile{expert, first + at, std::min<int64_t>(kRowBlock, rows - at)});
}

// What an inner layer passes on.
struct Silu {
  MESH_INLINE Vec operator()(Vec gate, Vec up) const {
    return gate * up / (all(1.0f) + exponential(gate * all(-1.0f)));
  }
};

// GELU as x (1 + tanh(u)) / 2 (Hendrycks and Gimpel, 2016), which is x sigmoid(2 u), with 2 u = 2 sqrt(2 / pi) (x +
// 0.044715 x^3).
struct GeluTanh {
  MESH_INLINE Vec operator()(Vec gate, Vec up) const {
    const Vec steep = gate * (all(1.59576912f) + all(1.59576912f * 0.044715f) * gate * gate);
    return gate * up / (all(1.0f) + exponential(steep * all(-1.0f)));
  }
};

// gpt-oss's: with a slope, both halves clamped, and one added to `up`.
struct ClampedGate {
  float slope, limit;
  MESH_INLINE Vec operator()(Vec gate, Vec up) const {
    gate = smaller(gate, all(limit));
    up = larger(smaller(up, all(limit)), all(-limit));
    return (up + all(1.0f)) * gate / (all(1.0f) + exponential(gate * all(-slope)));
  }
};

// Pairs of a row and an expert, those of one expert after another and by row within. Threads call `choose` for the rows
// that they take and meet; then all may read.
class Routing {
 public:
  void plan(const ExpertsDesc &desc, int64_t rows) {
    d_ = desc;
    rows_ = rows;
    chosen_.resize(size_t(rows * d_.chosen));
    shares_.resize(chosen_.size());
    row_of_.resize(chosen_.size());
    weight_of_.resize(chosen_.size());
    ends_.resize(size_t(d_.count));
    tiles_.reserve(size_t(std::min(rows * d_.chosen, d_.count + rows * d_.chosen / kRowBlock)));
    stride_ = round_up(d_.count, kPanel);
    scores_ = score_buffer_.at_least(rows * stride_);
    finished_.store(0, std::memory_order_relaxed);
  }

  float *scores() const { return scores_; }  // [rows][stride()], what the router says
  int64_t stride() const { return stride_; }
  int64_t pairs() const { return rows_ * d_.chosen; }
  const std::vector<RowTile> &tiles() const { return tiles_; }
  int64_t row(int64_t pair) const { return row_of_[pair]; }
  float weight(int64_t pair) const { return weight_of_[pair]; }

  // Whoever is done last makes the groups.
  void choose(int64_t row) {
    choose_row(scores_ + row * stride_, chosen_.data() + row * d_.chosen, shares_.data() + row * d_.chosen);
    if (finished_.fetch_add(1, std::memory_order_acq_rel) == rows_ - 1) group();
  }

 private:
  // The likeliest experts in ascending order, of equally likely ones the first; and what each counts.
  void choose_row(float *scores, int32_t *chosen, float *shares) const {
    int64_t found = 0;
    for (int64_t expert = 0; expert < d_.count; expert++) {
      if (found == d_.chosen && !(scores[expert] > scores[chosen[found - 1]])) continue;
      int64_t at = found < d_.chosen ? found++ : found - 1;
      for (; at > 0 && scores[expert] > scores[chosen[at - 1]]; at--) chosen[at] = chosen[at - 1];
      chosen[at] = int32_t(expert);
    }
    const Vec top = all(-scores[chosen[0]]);
    std::sort(chosen, chosen + found);
    for (int64_t i = d_.count; i < round_up(d_.count, kLanes); i++) scores[i] = -__builtin_inff();
    Vec total = all(0.0f);
    for (int64_t i = 0; i < d_.count; i += kLanes) {
      const Vec power = exponential(load(scores + i) + top);
      store(scores + i, power);
      total = total + power;
    }
    float of = 0.0f;
    for (int64_t i = 0; i < found; i++) of += scores[chosen[i]];
    if (!d_.normalises) of = sum(total);
    for (int64_t i = 0; i < found; i++) shares[i] = scores[chosen[i]] / of;
  }

  void group() {
    finished_.store(0, std::memory_order_relaxed);
    tiles_.clear();
    std::fill(ends_.begin(), ends_.end(), 0);
    for (int32_t expert : chosen_) ends_[expert]++;
    int64_t first = 0;
    for (int64_t expert = 0; expert < d_.count; expert++) {
      const int64_t rows = ends_[expert];
      tile_rows_of(expert, first, rows, tiles_);
      ends_[expert] = first;  // as far as it is filled
      first += rows;
    }
    for (int64_t pair = 0; pair < pairs(); pair++) {
      const int64_t to = ends_[chosen_[pair]]++;
      row_of_[to] = pair / d_.chosen;
      weight_of_[to] = shares_[pair];
    }
  }

  ExpertsDesc d_{};
  int64_t rows_ = 0, stride_ = 0;
  Buffer score_buffer_;
  float *scores_ = nullptr;
  std::atomic<int64_t> finished_{0};
  std::vector<int32_t> chosen_;  // [rows][chosen]
  std::vector<float> shares_;
  std::vector<int64_t> row_of_, ends_;  // [pairs] in groups; [experts]
  std::vector<float> weight_of_;
  std::vector<RowTile> tiles_;
};

}  // namespace mesh
