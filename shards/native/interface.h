// What Python hands over, mirrored field by field in library.py.
#pragma once

#include "linear.h"

namespace mesh {

constexpr int kRopes = 2;

enum Activation { kSilu, kGeluTanh };

// Members of 64 bits only, so that nothing is padded.
struct ExpertsDesc {
  int64_t count, chosen, inner;  // 0: no mixture
  int64_t normalises;            // the weights of those chosen sum to 1
  double slope, limit;           // of the gate: silu where the limit is 0
};

struct BlockDesc {
  const float *attention_norm, *query_norm, *key_norm, *mlp_norm;
  const float *attention_out_norm, *mlp_out_norm;  // of what is added to the hidden states, or null
  Matrix qkv[3], o, gate_up, down;
  void *keys, *values;  // [pages][kv_heads][head_dim][kPage] and [pages][kv_heads][kPage][head_dim]
  int64_t window;       // 0: none
  int64_t qkv_parts;    // queries, keys and values are one matrix or more
  int64_t rope;         // which of the batch's cosines and sines
  const float *sinks;   // [heads], or null: what each head's scores compete with besides
  Matrix router;        // of a mixture, whose experts' layers these are: gate_up and down are not used
  const Matrix *expert_gate_up, *expert_down;
};

struct StageDesc {
  int64_t hidden, inner, heads, kv_heads, head_dim, vocab, blocks;
  int64_t cache_type;     // a WeightType
  int64_t rounds_inputs;  // linear layers take bfloat16 inputs, on the matrix unit
  int64_t rotary_dim;     // numbers of each head that are turned
  int64_t activation;     // an Activation
  double eps;
  double attention_scale;
  double score_cap, logit_cap;  // x becomes cap tanh(x / cap); 0: it stays
  double embedding_scale;
  BlockDesc *block;
  const float *final_norm;  // null where the head is elsewhere
  Matrix head;
  const void *embedding;    // [vocab][hidden], or null: it lies in panels, or elsewhere
  int64_t embedding_type;
  Matrix table;             // the embedding's panels, which may be the head's
  ExpertsDesc experts;
};

struct Batch {
  int64_t threads, rows, pieces, first_block, last_block;
  const int64_t *tokens;      // [rows], or null where `x` has what came in
  float *x;                   // [rows][hidden], in and out
  const int64_t *piece_rows, *piece_start;  // [pieces]
  const int32_t *tables;      // the pieces' page tables one after the other
  const int64_t *table_start; // [pieces]
  const float *cosines[kRopes], *sines[kRopes];  // [positions][rotary_dim / 2]
  int64_t wanted;
  const int64_t *wanted_rows;
  float *logits;              // [wanted][vocab]
};

}  // namespace mesh
