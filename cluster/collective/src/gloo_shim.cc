// Gloo as a handful of C functions: connect through a store of callbacks, exchange bytes between all ranks, end.
//
// One primitive is enough. Reductions are built from it on the Rust side, where sums are taken in the order of ranks;
// Gloo's own reductions sum in an order that depends on their algorithm.
//
// No exception leaves this file: functions return null or nonzero and leave the reason in `error`.

#include <chrono>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/store.h>
#include <gloo/transport/tcp/device.h>
#include <gloo/transport/unbound_buffer.h>

extern "C" {

// What the store's owner provides. Each returns zero, or nonzero when it could not.
struct lavida_entries {
  void* self;
  int (*set)(void* self, const char* key, size_t key_len, const char* value, size_t value_len);
  // Waits for the entry and gives its bytes to `take`.
  int (*get)(void* self, const char* key, size_t key_len, void* sink,
             void (*take)(void* sink, const char* value, size_t value_len));
};

struct lavida_error {
  char text[512];
};
}

namespace {

void say(lavida_error* error, const char* text) {
  std::strncpy(error->text, text, sizeof(error->text) - 1);
  error->text[sizeof(error->text) - 1] = 0;
}

class Entries : public gloo::rendezvous::Store {
 public:
  explicit Entries(lavida_entries entries) : entries_(entries) {}

  void set(const std::string& key, const std::vector<char>& data) override {
    if (entries_.set(entries_.self, key.data(), key.size(), data.data(), data.size()) != 0) {
      throw std::runtime_error("the rendezvous did not take entry " + key);
    }
  }

  std::vector<char> get(const std::string& key) override {
    std::vector<char> value;
    auto take = [](void* sink, const char* bytes, size_t len) {
      static_cast<std::vector<char>*>(sink)->assign(bytes, bytes + len);
    };
    if (entries_.get(entries_.self, key.data(), key.size(), &value, take) != 0) {
      throw std::runtime_error("the rendezvous has no entry " + key);
    }
    return value;
  }

  void wait(const std::vector<std::string>& keys) override {
    for (const auto& key : keys) {
      get(key);
    }
  }

  void wait(const std::vector<std::string>& keys, const std::chrono::milliseconds&) override {
    wait(keys);
  }

 private:
  lavida_entries entries_;
};

}  // namespace

extern "C" {

struct lavida_gloo {
  std::shared_ptr<gloo::rendezvous::Context> context;
  std::mutex mutex;
  bool aborted = false;
  gloo::transport::UnboundBuffer* in = nullptr;
  gloo::transport::UnboundBuffer* out = nullptr;
};

lavida_gloo* lavida_gloo_connect(int rank, int size, const char* host, uint64_t timeout_ms,
                                 lavida_entries entries, lavida_error* error) {
  try {
    auto engine = std::make_unique<lavida_gloo>();
    gloo::transport::tcp::attr attr(host);
    auto device = gloo::transport::tcp::CreateDevice(attr);
    engine->context = std::make_shared<gloo::rendezvous::Context>(rank, size);
    engine->context->setTimeout(std::chrono::milliseconds(timeout_ms));
    Entries store(entries);
    engine->context->connectFullMesh(store, device);
    return engine.release();
  } catch (const std::exception& e) {
    say(error, e.what());
  } catch (...) {
    say(error, "an unknown exception");
  }
  return nullptr;
}

// Sends bytes `in_at[p] .. in_at[p] + in_len[p]` of `in` to each peer p, and receives likewise. What a rank has for
// itself is not touched. Returns 1 when aborted, 2 on any other error.
int lavida_gloo_exchange(lavida_gloo* engine, char* in, size_t in_total, const size_t* in_at,
                         const size_t* in_len, char* out, size_t out_total, const size_t* out_at,
                         const size_t* out_len, lavida_error* error) {
  int result = 0;
  std::unique_ptr<gloo::transport::UnboundBuffer> in_buffer, out_buffer;
  try {
    auto& context = *engine->context;
    in_buffer = context.createUnboundBuffer(in, in_total);
    out_buffer = context.createUnboundBuffer(out, out_total);
    {
      std::lock_guard<std::mutex> lock(engine->mutex);
      if (engine->aborted) {
        return 1;
      }
      engine->in = in_buffer.get();
      engine->out = out_buffer.get();
    }
    const uint64_t slot = context.nextSlot();
    const auto timeout = context.getTimeout();
    int sends = 0, receives = 0;
    for (int i = 1; i < context.size; i++) {
      const int from = (context.rank + context.size - i) % context.size;
      if (out_len[from] > 0) {
        out_buffer->recv(from, slot, out_at[from], out_len[from]);
        receives++;
      }
    }
    for (int i = 1; i < context.size; i++) {
      const int to = (context.rank + i) % context.size;
      if (in_len[to] > 0) {
        in_buffer->send(to, slot, in_at[to], in_len[to]);
        sends++;
      }
    }
    while (result == 0 && receives-- > 0) {
      result = out_buffer->waitRecv(nullptr, timeout) ? 0 : 1;
    }
    while (result == 0 && sends-- > 0) {
      result = in_buffer->waitSend(nullptr, timeout) ? 0 : 1;
    }
  } catch (const std::exception& e) {
    say(error, e.what());
    result = 2;
  } catch (...) {
    say(error, "an unknown exception");
    result = 2;
  }
  std::lock_guard<std::mutex> lock(engine->mutex);
  engine->in = nullptr;
  engine->out = nullptr;
  if (engine->aborted) {
    return 1;
  }
  if (result != 0) {
    // Buffers of a failed exchange may still be named by the pairs: end those before the memory goes.
    try {
      engine->context->closeConnections();
    } catch (...) {
    }
  }
  return result;
}

// Ends what waits now and fails what comes later, here and at the peers. May be called from any thread.
void lavida_gloo_abort(lavida_gloo* engine) {
  std::lock_guard<std::mutex> lock(engine->mutex);
  if (engine->aborted) {
    return;
  }
  engine->aborted = true;
  try {
    engine->context->closeConnections();
    if (engine->out != nullptr) {
      engine->out->abortWaitRecv();
    }
    if (engine->in != nullptr) {
      engine->in->abortWaitSend();
    }
  } catch (...) {
  }
}

void lavida_gloo_free(lavida_gloo* engine) {
  try {
    delete engine;
  } catch (...) {
  }
}
}
