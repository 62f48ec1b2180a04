// The threads of one stage: all run the same function and meet at barriers. Waiting spins a little and then sleeps.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace mesh {

inline void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// A number that only grows, and that threads wait to see change.
class Epoch {
 public:
  uint64_t now() const { return value_.load(std::memory_order_acquire); }

  void advance() {
    value_.fetch_add(1, std::memory_order_acq_rel);
    if (sleepers_.load(std::memory_order_seq_cst)) {
      std::lock_guard<std::mutex> lock(mutex_);
      changed_.notify_all();
    }
  }

  void wait_past(uint64_t seen, int spins) {
    for (int i = 0; i < spins; i++) {
      if (now() != seen) return;
      pause_cpu();
    }
    std::unique_lock<std::mutex> lock(mutex_);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    changed_.wait(lock, [&] { return value_.load(std::memory_order_seq_cst) != seen; });
    sleepers_.fetch_sub(1, std::memory_order_seq_cst);
  }

 private:
  std::atomic<uint64_t> value_{0};
  std::atomic<int> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
};

class Pool {
 public:
  explicit Pool(int threads) : threads_(threads < 1 ? 1 : threads) {
    for (int i = 1; i < threads_; i++) workers_.emplace_back([this, i] { serve(i); });
  }

  ~Pool() {
    stopping_.store(true);
    started_.advance();
    for (auto &worker : workers_) worker.join();
  }

  int threads() const { return threads_; }

  // Runs `job(thread)` on every thread, the caller's being 0, and returns when all are done.
  void run(const std::function<void(int)> &job) {
    next_.store(0, std::memory_order_relaxed);
    if (threads_ == 1) return job(0);
    job_ = &job;
    started_.advance();
    job(0);
    barrier();
  }

  // All threads have come here before any goes on. The counter of `take` starts anew.
  void barrier() {
    if (threads_ == 1) {
      next_.store(0, std::memory_order_relaxed);
      return;
    }
    uint64_t seen = passed_.now();
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == threads_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      next_.store(0, std::memory_order_relaxed);
      passed_.advance();
    } else {
      passed_.wait_past(seen, kBarrierSpins);
    }
  }

  // The next piece of the phase's work for whichever thread is free; results do not depend on which it is.
  int64_t take() { return next_.fetch_add(1, std::memory_order_relaxed); }

 private:
  static constexpr int kBarrierSpins = 1000;
  static constexpr int kIdleSpins = 1000;

  void serve(int index) {
    uint64_t seen = 0;
    for (;;) {
      started_.wait_past(seen, kIdleSpins);
      seen++;
      if (stopping_.load()) return;
      (*job_)(index);
      barrier();
    }
  }

  const int threads_;
  std::vector<std::thread> workers_;
  const std::function<void(int)> *job_ = nullptr;
  std::atomic<int64_t> next_{0};
  std::atomic<int> arrived_{0};
  std::atomic<bool> stopping_{false};
  Epoch started_, passed_;
};

}  // namespace mesh
