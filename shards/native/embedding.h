// An embedding's rows, in whichever way it is stored.
#pragma once

#include "interface.h"
#include "quant.h"

namespace mesh {

// `to` [hidden] = the row of a token: of floats as they lie in the checkpoint, or of panels, which may be the head's.
inline void look_up(const StageDesc &stage, int64_t token, float *to) {
  if (stage.embedding) {
    const int64_t from = token * stage.hidden;
    for (int64_t i = 0; i < stage.hidden; i++)
      to[i] = stage.embedding_type == kBfloat16 ? widen(((const Bf16 *)stage.embedding)[from + i])
                                                : ((const float *)stage.embedding)[from + i];
    return;
  }
  const Matrix &table = stage.table;
  if (is_quantised(table)) return read_output(table, token, to);
  const int64_t panel = token / kPanel * depth_of(table) * kPanel, lane = token % kPanel;
  for (int64_t i = 0; i < stage.hidden; i++) {
    if (table.type == kBfloat16)
      to[i] = widen(((const Bf16 *)table.panels)[panel + i / 2 * 2 * kPanel + 2 * lane + i % 2]);
    else
      to[i] = ((const float *)table.panels)[panel + i * kPanel + lane];
  }
}

}  // namespace mesh
