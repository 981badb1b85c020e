#ifndef ZEROCAST_CLIENT_AGENT_BUFFER_H_
#define ZEROCAST_CLIENT_AGENT_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <memory>

namespace zerocast {

// Memory that grows to the largest size asked for and is used again; its content is undefined.
class Buffer {
 public:
  char* Reserve(int64_t num_bytes) {
    if (num_bytes > num_bytes_) {
      data_.reset();  // never both at once
      data_.reset(new char[static_cast<size_t>(num_bytes)]);
      num_bytes_ = num_bytes;
    }
    return data_.get();
  }
  int64_t num_bytes() const { return num_bytes_; }

 private:
  std::unique_ptr<char[]> data_;
  int64_t num_bytes_ = 0;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_BUFFER_H_
