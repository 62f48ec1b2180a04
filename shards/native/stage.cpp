// The blocks of one stage over a packed batch of rows: what Python calls. Memory belongs to the caller, except scratch.
#include <cmath>

#include "attention.h"
#include "embedding.h"
#include "experts.h"
#include "finish.h"
#include "interface.h"

namespace mesh {

class Stage {
 public:
  explicit Stage(const StageDesc &desc) : d_(desc) {
    blocks_.assign(desc.block, desc.block + desc.blocks);
    for (const BlockDesc &block : blocks_)
      for (const Matrix *m : {&block.qkv[0], &block.qkv[1], &block.qkv[2], &block.o, &block.gate_up, &block.down})
        if (m->order) has_orders_ = true;
  }

  void forward(const Batch &batch) {
    if (!pool_ || pool_->threads() != batch.threads) {
      pool_.reset(new Pool(int(batch.threads)));
      scratch_.reset(new Scratch[pool_->threads()]);
    }
    batch_ = batch;
    plan();
    pool_->run([this](int thread) { d_.rounds_inputs ? work<Bf16>(thread) : work<float>(thread); });
  }

 private:
  struct Scratch {
    Buffer product, second, query, scores, out, wide;
  };
  struct Tile {
    int64_t piece, row, tokens;
  };

  static constexpr int64_t kCapped = 4096;  // logits that a thread caps at once
  static constexpr int64_t kTileHeads = 24;  // rows of attention that share a walk over the keys

  void plan() {
    const int64_t rows = batch_.rows, attended = d_.heads * d_.head_dim;
    qkv_stride_ = round_up((d_.heads + 2 * d_.kv_heads) * d_.head_dim, kPanel);
    hidden_stride_ = round_up(d_.hidden, 32);
    attended_stride_ = round_up(attended, 32);
    inner_stride_ = round_up(d_.inner, 32);
    branch_ = branch_buffer_.at_least(rows * d_.hidden);
    normed_ = normed_buffer_.at_least(std::max(rows, batch_.wanted) * hidden_stride_);
    qkv_ = qkv_buffer_.at_least(rows * qkv_stride_);
    attended_ = attended_buffer_.at_least(rows * attended_stride_);
    inner_ = inner_buffer_.at_least(rows * inner_stride_);
    row_tiles_.clear();
    tile_rows_of(0, 0, rows, row_tiles_);
    if (d_.experts.count) {
      expert_stride_ = round_up(d_.experts.inner, 32);
      routing_.plan(d_.experts, rows);
      gathered_ = gathered_buffer_.at_least(routing_.pairs() * hidden_stride_);
      expert_inner_ = expert_buffer_.at_least(routing_.pairs() * expert_stride_);
    }
    if (has_orders_)
      ordered_ = ordered_buffer_.at_least(rows * std::max({hidden_stride_, attended_stride_, inner_stride_}));
    tiles_.clear();
    int64_t longest = 0;
    row_piece_.resize(rows);
    row_position_.resize(rows);
    const int64_t per_tile = std::max<int64_t>(1, kTileHeads / (d_.heads / d_.kv_heads));
    int64_t row = 0;
    for (int64_t piece = 0; piece < batch_.pieces; piece++) {
      const int64_t count = batch_.piece_rows[piece];
      for (int64_t i = 0; i < count; i++) {
        row_piece_[row + i] = piece;
        row_position_[row + i] = batch_.piece_start[piece] + i;
      }
      // The last tokens see most: they come first, so that the threads finish together.
      for (int64_t end = count; end > 0; end -= per_tile) {
        const int64_t begin = std::max<int64_t>(0, end - per_tile);
        tiles_.push_back(Tile{piece, row + begin, end - begin});
      }
      longest = std::max(longest, batch_.piece_start[piece] + count);
      row += count;
    }
    // Threads find all that they need: they could not say that there was no memory.
    score_stride_ = round_up(longest, kPage) + kPage;
    const int64_t tile_rows = per_tile * (d_.heads / d_.kv_heads);
    for (int thread = 0; thread < pool_->threads(); thread++) {
      Scratch &own = scratch_[thread];
      own.product.at_least(kRowBlock * kPanel);
      own.second.at_least(kRowBlock * kPanel);
      own.query.at_least(tile_rows * d_.head_dim);
      own.scores.at_least(tile_rows * score_stride_);
      own.out.at_least(tile_rows * round_up(d_.head_dim, kLanes));
      own.wide.at_least(kWidePages * kPage * d_.head_dim + kLanes);
    }
  }

  template <class Input> void work(int thread) {
    Scratch &own = scratch_[thread];
    if (batch_.tokens) {
      for (int64_t row; (row = pool_->take()) < batch_.rows;) embed(row);
      pool_->barrier();
    }
    const float *due = nullptr;  // the norm of a branch that is yet to be added
    for (int64_t index = batch_.first_block; index < batch_.last_block; index++) {
      const BlockDesc &block = blocks_[index];
      norm_rows<Input>(block.attention_norm, due, nullptr, batch_.rows);
      for (int64_t part = 0, column = 0; part < block.qkv_parts; column += block.qkv[part++].outputs)
        linear<Input>(own, block.qkv[part], normed_, hidden_stride_, batch_.rows,
                      Plain{qkv_ + column, qkv_stride_, block.qkv[part].outputs});
      for (int64_t row; (row = pool_->take()) < batch_.rows;)
        d_.cache_type == kBfloat16 ? turn<Bf16>(block, row) : turn<float>(block, row);
      pool_->barrier();
      const int64_t units = int64_t(tiles_.size()) * d_.kv_heads;
      for (int64_t unit; (unit = pool_->take()) < units;)
        d_.cache_type == kBfloat16 ? attend_tile<Bf16, Input>(own, block, unit)
                                   : attend_tile<float, Input>(own, block, unit);
      pool_->barrier();
      branch<Input>(own, block.o, attended_, attended_stride_, block.attention_out_norm);
      norm_rows<Input>(block.mlp_norm, block.attention_out_norm, nullptr, batch_.rows);
      due = block.mlp_out_norm;
      if (block.expert_down)
        experts<Input>(own, block);
      else
        mlp<Input>(own, block);
    }
    if (batch_.wanted) {
      norm_rows<Input>(d_.final_norm, due, batch_.wanted_rows, batch_.wanted);
      linear<Input>(own, d_.head, normed_, hidden_stride_, batch_.wanted, Plain{batch_.logits, d_.vocab, d_.vocab});
      if (d_.logit_cap != 0.0) cap_logits(float(d_.logit_cap));
    } else if (due) {
      for (int64_t row; (row = pool_->take()) < batch_.rows;) add_branch(row, due);
    }
    if (d_.rounds_inputs) release_tiles();
  }

  void cap_logits(float cap) {
    const int64_t count = batch_.wanted * d_.vocab;
    for (int64_t at; (at = pool_->take() * kCapped) < count;)
      for (int64_t end = std::min(at + kCapped, count); at < end; at += kLanes) {
        const int some = int(std::min<int64_t>(kLanes, end - at));
        float *logits = batch_.logits + at;
        store_some(logits, soft_cap(load_some(logits, some), cap), some);
      }
  }

  void embed(int64_t row) {
    float *x = batch_.x + row * d_.hidden;
    look_up(d_, batch_.tokens[row], x);
    const float scale = float(d_.embedding_scale);
    if (scale != 1.0f)
      for (int64_t i = 0; i < d_.hidden; i++) x[i] *= scale;
  }

  // What attention or the MLP gives is added to the rows, or kept for `add_branch` where it is to be normed before.
  template <class Input>
  void branch(Scratch &own, const Matrix &m, const float *buffer, int64_t stride, const float *norm) {
    if (norm)
      linear<Input>(own, m, buffer, stride, batch_.rows, Plain{branch_, d_.hidden, d_.hidden});
    else
      linear<Input>(own, m, buffer, stride, batch_.rows, Added{batch_.x, d_.hidden});
  }

  void add_branch(int64_t row, const float *weight) {
    const float *from = branch_ + row * d_.hidden;
    float *to = batch_.x + row * d_.hidden;
    const float scale = inverse_root(from, d_.hidden);
    for (int64_t i = 0; i < d_.hidden; i++) to[i] += from[i] * scale * weight[i];
  }

  // `normed_` [count] = RMSNorm of the rows, or of those that `rows` names, once the branch that is `due` is added.
  template <class Input> void norm_rows(const float *weight, const float *due, const int64_t *rows, int64_t count) {
    for (int64_t i; (i = pool_->take()) < count;) {
      const int64_t row = rows ? rows[i] : i;
      if (due) add_branch(row, due);
      const float *from = batch_.x + row * d_.hidden;
      normalise(from, weight, d_.hidden, (Input *)normed_ + i * hidden_stride_);
    }
    pool_->barrier();
  }

  template <class T> void normalise(const float *from, const float *weight, int64_t width, T *to) const {
    const float scale = inverse_root(from, width);
    for (int64_t i = 0; i < width; i++) put(to + i, from[i] * scale * weight[i]);
  }

  // One over the root of the mean square.
  float inverse_root(const float *from, int64_t width) const {
    Vec squares = all(0.0f);
    const int64_t whole = width / kLanes * kLanes, left = width - whole;
    for (int64_t i = 0; i < whole; i += kLanes) {
      Vec value = load(from + i);
      add_product(squares, value, value);
    }
    if (left) {
      Vec value = load_some(from + whole, int(left));
      add_product(squares, value, value);
    }
    return 1.0f / std::sqrt(sum(squares) / float(width) + float(d_.eps));
  }

  template <class Input, class Finish>
  void linear(Scratch &own, const Matrix &m, const float *buffer, int64_t stride, int64_t rows, Finish finish) {
    mesh::linear(*pool_, own.product.at_least(1), m, in_order(m, (const Input *)buffer, stride, rows), stride, rows,
                 finish);
  }

  // The rows with their inputs as a matrix has them.
  template <class Input> const Input *in_order(const Matrix &m, const Input *x, int64_t stride, int64_t rows) {
    if (!m.order) return x;
    for (int64_t row; (row = pool_->take()) < rows;) {
      const Input *from = x + row * stride;
      Input *to = (Input *)ordered_ + row * stride;
      for (int64_t i = 0; i < m.inputs; i++) to[i] = from[m.order[i]];
    }
    pool_->barrier();
    return (const Input *)ordered_;
  }

  // Rows of `in` to `out` through the layers that their tiles name, all of one shape. The gate's outputs are padded to
  // whole panels, so that a panel of it and its partner of `up` meet here.
  template <class Input, class Gate>
  void gate_up(Scratch &own, const Matrix *layers, const std::vector<RowTile> &tiles, const float *in,
               int64_t in_stride, float *out, int64_t out_stride, int64_t inner, Gate pass) {
    const int64_t panels = panels_of(*layers) / 2;
    each_unit(*pool_, panels * int64_t(tiles.size()), [&](int64_t unit) {
      const RowTile &tile = tiles[unit / panels];
      const Matrix &m = layers[tile.expert];
      const bool pairs = in_pairs<Input>(tile.count);
      const int64_t panel = unit % panels, column = panel * kPanel, stride = pairs ? 2 * kPanel : kPanel;
      float *gates = own.product.at_least(1), *ups = pairs ? gates + kPanel : own.second.at_least(1);
      const Input *x = (const Input *)in + tile.first * in_stride;
      if (pairs) {
        if constexpr (std::is_same<Input, float>::value) pair_product(m, panel, panels, x, in_stride, tile.count, gates);
      } else {
        panel_product(m, panel, x, in_stride, tile.count, gates);
        panel_product(m, panels + panel, x, in_stride, tile.count, ups);
      }
      for (int64_t i = 0; i < tile.count; i++) {
        Input *to = (Input *)out + (tile.first + i) * out_stride + column;
        for (int v = 0; v < kPanelVecs; v++) {
          const int64_t at = column + v * kLanes, left = inner - at;
          if (left <= 0) break;
          Vec gate = load(gates + i * stride + v * kLanes), up = load(ups + i * stride + v * kLanes);
          if (m.bias) {
            gate = gate + load(m.bias + at);
            up = up + load(m.bias + panels * kPanel + at);
          }
          store_some(to + v * kLanes, pass(gate, up), left < kLanes ? int(left) : kLanes);
        }
      }
    });
    pool_->barrier();
  }

  template <class Input> void mlp(Scratch &own, const BlockDesc &block) {
    const float *in = (const float *)in_order(block.gate_up, (const Input *)normed_, hidden_stride_, batch_.rows);
    if (d_.activation == kSilu)
      gate_up<Input>(own, &block.gate_up, row_tiles_, in, hidden_stride_, inner_, inner_stride_, d_.inner, Silu{});
    else
      gate_up<Input>(own, &block.gate_up, row_tiles_, in, hidden_stride_, inner_, inner_stride_, d_.inner, GeluTanh{});
    branch<Input>(own, block.down, inner_, inner_stride_, block.mlp_out_norm);
  }

  // Each expert's weights are read once, for all rows that take it.
  template <class Input> void experts(Scratch &own, const BlockDesc &block) {
    linear<Input>(own, block.router, normed_, hidden_stride_, batch_.rows,
                  Plain{routing_.scores(), routing_.stride(), d_.experts.count});
    for (int64_t row; (row = pool_->take()) < batch_.rows;) routing_.choose(row);
    pool_->barrier();
    const float *in = normed_;
    if (batch_.rows > 1) {
      for (int64_t pair; (pair = pool_->take()) < routing_.pairs();)
        std::memcpy((Input *)gathered_ + pair * hidden_stride_,
                    (const Input *)normed_ + routing_.row(pair) * hidden_stride_, size_t(hidden_stride_) * sizeof(Input));
      pool_->barrier();
      in = gathered_;
    }
    const int64_t stride = batch_.rows > 1 ? hidden_stride_ : 0;
    if (d_.experts.limit > 0)
      gate_up<Input>(own, block.expert_gate_up, routing_.tiles(), in, stride, expert_inner_, expert_stride_,
                     d_.experts.inner, ClampedGate{float(d_.experts.slope), float(d_.experts.limit)});
    else
      gate_up<Input>(own, block.expert_gate_up, routing_.tiles(), in, stride, expert_inner_, expert_stride_,
                     d_.experts.inner, Silu{});
    const int64_t panels = panels_of(*block.expert_down), width = panels < kTurns * pool_->threads() ? 1 : 2;
    each_run(*pool_, (panels + width - 1) / width, [&](int64_t first, int64_t end) {
      for (const RowTile &tile : routing_.tiles())
        some_panels(block.expert_down[tile.expert], first * width, std::min(end * width, panels),
                    (const Input *)expert_inner_ + tile.first * expert_stride_, expert_stride_, tile.count,
                    own.product.at_least(1), [&](int64_t i, int64_t column, const float *values, const Matrix &m) {
                      const int64_t pair = tile.first + i, count = std::min<int64_t>(kPanel, d_.hidden - column);
                      const float weight = routing_.weight(pair);
                      float *to = batch_.x + routing_.row(pair) * d_.hidden + column;
                      for (int64_t n = 0; n < count; n++)
                        to[n] += weight * (m.bias ? values[n] + m.bias[column + n] : values[n]);
                    });
    });
    pool_->barrier();
  }

  // One row's queries and keys are normed where the model does so and turned; keys and values go to their page.
  template <class T> void turn(const BlockDesc &block, int64_t row) {
    const int64_t dim = d_.head_dim, half = d_.rotary_dim / 2;
    const int64_t piece = row_piece_[row], position = row_position_[row];
    const int64_t page = batch_.tables[batch_.table_start[piece] + position / kPage], slot = position % kPage;
    const float *cosines = batch_.cosines[block.rope] + position * half;
    const float *sines = batch_.sines[block.rope] + position * half;
    const float scale = float(d_.attention_scale);
    float *heads = qkv_ + row * qkv_stride_;
    for (int64_t head = 0; head < d_.heads + d_.kv_heads; head++) {
      float *at = heads + head * dim;
      const bool is_query = head < d_.heads;
      if (block.query_norm) normalise(at, is_query ? block.query_norm : block.key_norm, dim, at);
      for (int64_t i = 0; i < half; i++) {
        const float left = at[i], right = at[half + i];
        at[i] = left * cosines[i] - right * sines[i];
        at[half + i] = right * cosines[i] + left * sines[i];
      }
      if (is_query)
        for (int64_t i = 0; i < dim; i++) at[i] *= scale;
    }
    const float *keys = heads + d_.heads * dim, *values = keys + d_.kv_heads * dim;
    for (int64_t head = 0; head < d_.kv_heads; head++) {
      T *key = (T *)block.keys + (page * d_.kv_heads + head) * dim * kPage + slot;
      T *value = (T *)block.values + ((page * d_.kv_heads + head) * kPage + slot) * dim;
      for (int64_t i = 0; i < dim; i++) put(key + i * kPage, keys[head * dim + i]);
      for (int64_t i = 0; i < dim; i++) put(value + i, values[head * dim + i]);
    }
  }

  template <class T, class Input> void attend_tile(Scratch &own, const BlockDesc &block, int64_t unit) {
    const int64_t dim = d_.head_dim, padded = round_up(dim, kLanes), group = d_.heads / d_.kv_heads;
    const Tile &tile = tiles_[unit / d_.kv_heads];
    const int64_t kv = unit % d_.kv_heads, rows = tile.tokens * group;
    float *query = own.query.at_least(1), *out = own.out.at_least(1);
    for (int64_t token = 0; token < tile.tokens; token++)
      std::memcpy(query + token * group * dim, qkv_ + (tile.row + token) * qkv_stride_ + kv * group * dim,
                  size_t(group * dim) * sizeof(float));
    AttentionTile at{query, own.scores.at_least(1), out, rows, group, row_position_[tile.row], dim,
                     score_stride_, block.window, batch_.tables + batch_.table_start[tile.piece],
                     d_.kv_heads * dim * kPage, own.wide.at_least(1), float(d_.score_cap),
                     block.sinks ? block.sinks + kv * group : nullptr};
    attend<T>(at, (const T *)block.keys + kv * dim * kPage, (const T *)block.values + kv * dim * kPage);
    for (int64_t row = 0; row < rows; row++) {
      Input *to = (Input *)attended_ + (tile.row + row / group) * attended_stride_ + (kv * group + row % group) * dim;
      for (int64_t i = 0; i < dim; i++) put(to + i, out[row * padded + i]);
    }
  }

  StageDesc d_;
  std::vector<BlockDesc> blocks_;
  std::unique_ptr<Pool> pool_;
  std::unique_ptr<Scratch[]> scratch_;
  Batch batch_{};
  std::vector<Tile> tiles_;
  std::vector<RowTile> row_tiles_;
  Routing routing_;
  std::vector<int64_t> row_piece_, row_position_;
  Buffer branch_buffer_, normed_buffer_, qkv_buffer_, attended_buffer_, inner_buffer_, gathered_buffer_;
  Buffer expert_buffer_;
  float *branch_ = nullptr, *normed_ = nullptr, *qkv_ = nullptr, *attended_ = nullptr, *inner_ = nullptr;
  float *gathered_ = nullptr, *expert_inner_ = nullptr;
  Buffer ordered_buffer_;
  float *ordered_ = nullptr;
  bool has_orders_ = false;
  int64_t qkv_stride_ = 0, hidden_stride_ = 0, attended_stride_ = 0, inner_stride_ = 0, score_stride_ = 0;
  int64_t expert_stride_ = 0;
};

}  // namespace mesh

extern "C" {

int64_t mesh_panel() { return mesh::kPanel; }

int64_t mesh_has_tiles() { return mesh::have_tiles(); }

void *mesh_stage_new(const mesh::StageDesc *desc) {
  try {
    return new mesh::Stage(*desc);
  } catch (...) {
    return nullptr;
  }
}

void mesh_stage_delete(void *stage) { delete (mesh::Stage *)stage; }

// 0, or 1 where there was no memory for scratch.
int64_t mesh_stage_forward(void *stage, const mesh::Batch *batch) {
  try {
    ((mesh::Stage *)stage)->forward(*batch);
    return 0;
  } catch (...) {
    return 1;
  }
}
}
