// Memory of a stage's own, which grows with what it computes.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

namespace mesh {

struct Buffer {
  std::unique_ptr<float, void (*)(void *)> data{nullptr, std::free};
  int64_t size = 0;

  // At least `count` floats at a cache line's start, zeros when new.
  float *at_least(int64_t count) {
    if (count > size) {
      void *memory = nullptr;
      if (posix_memalign(&memory, 64, size_t(count) * sizeof(float))) throw std::bad_alloc();
      std::memset(memory, 0, size_t(count) * sizeof(float));
      data.reset((float *)memory);
      size = count;
    }
    return data.get();
  }
};

}  // namespace mesh
