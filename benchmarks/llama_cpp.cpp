// llama.cpp as a contestant of benchmarks/engine.py: MODEL.gguf THREADS, then lines of "sessions prompt new round", each
// answered by one line of JSON like benchmarks/contestants.py. How to build it is said in benchmarks/engine.py.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "ggml-backend.h"
#include "llama.h"

static double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Batch {
  llama_batch raw;
  explicit Batch(int tokens) : raw(llama_batch_init(tokens, 0, 1)) {}
  ~Batch() { llama_batch_free(raw); }
  void add(llama_token token, int position, int session, bool logits) {
    const int at = raw.n_tokens++;
    raw.token[at] = token;
    raw.pos[at] = position;
    raw.n_seq_id[at] = 1;
    raw.seq_id[at][0] = session;
    raw.logits[at] = logits;
  }
};

int main(int argc, char **argv) {
  if (argc != 3) return 1;
  constexpr int kChunk = 512, kMostSessions = 64, kMostTokens = 16384;
  const int threads = std::atoi(argv[2]);
  llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
  ggml_backend_load_all();
  llama_backend_init();
  llama_model *model = llama_model_load_from_file(argv[1], llama_model_default_params());
  if (!model) return 2;
  llama_context_params params = llama_context_default_params();
  params.n_ctx = kMostTokens;
  params.n_batch = params.n_ubatch = kChunk;
  params.n_seq_max = kMostSessions;
  params.kv_unified = true;
  params.n_threads = params.n_threads_batch = threads;
  llama_context *context = llama_init_from_model(model, params);
  if (!context) return 3;
  const int vocab = llama_vocab_n_tokens(llama_model_get_vocab(model)), low = std::min(100, vocab / 4);
  auto likeliest = [&](int row) {
    const float *logits = llama_get_logits_ith(context, row);
    return llama_token(std::max_element(logits, logits + vocab) - logits);
  };
  std::printf("{\"ready\": true}\n");
  std::fflush(stdout);
  int sessions, prompt, count, round;
  while (std::scanf("%d %d %d %d", &sessions, &prompt, &count, &round) == 4) {
    llama_memory_clear(llama_get_memory(context), true);
    Batch batch(kChunk);
    std::vector<llama_token> last(sessions);
    const double began = seconds();
    for (int s = 0; s < sessions; s++) {
      for (int begin = 0; begin < prompt; begin += kChunk) {
        batch.raw.n_tokens = 0;
        for (int i = begin; i < std::min(prompt, begin + kChunk); i++)
          batch.add(low + int((i * 7919LL + s * 31 + round * 101) % (vocab - low)), i, s, i == prompt - 1);
        if (llama_decode(context, batch.raw)) return 4;
      }
      last[s] = likeliest(batch.raw.n_tokens - 1);
    }
    const double first = seconds();
    for (int k = 0; k < count - 1; k++) {
      batch.raw.n_tokens = 0;
      for (int s = 0; s < sessions; s++) batch.add(last[s], prompt + k, s, true);
      if (llama_decode(context, batch.raw)) return 5;
      for (int s = 0; s < sessions; s++) last[s] = likeliest(s);
    }
    std::printf("{\"first\": %.6f, \"decode\": %.6f}\n", first - began, seconds() - first);
    std::fflush(stdout);
  }
}
