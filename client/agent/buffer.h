#ifndef ZEROCAST_CLIENT_AGENT_BUFFER_H_
#define ZEROCAST_CLIENT_AGENT_BUFFER_H_

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace zerocast {

// Memory that grows to the largest size asked for and is used again; its content is undefined.  On
// huge pages where the system has them to give.
class Buffer {
 public:
  char* Reserve(int64_t num_bytes) {
    if (num_bytes > num_bytes_) {
      data_.reset();  // never both at once
      const auto size = (static_cast<size_t>(num_bytes) + kAlignment - 1) / kAlignment * kAlignment;
      data_.reset(static_cast<char*>(std::aligned_alloc(kAlignment, size)));
      if (data_ == nullptr) throw std::bad_alloc();
      ::madvise(data_.get(), size, MADV_HUGEPAGE);
      num_bytes_ = num_bytes;
    }
    return data_.get();
  }
  char* data() const { return data_.get(); }
  int64_t num_bytes() const { return num_bytes_; }

 private:
  static constexpr size_t kAlignment = size_t{2} << 20;
  struct Free {
    void operator()(char* data) const { std::free(data); }
  };
  std::unique_ptr<char, Free> data_;
  int64_t num_bytes_ = 0;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_BUFFER_H_
