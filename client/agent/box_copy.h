#ifndef ZEROCAST_CLIENT_AGENT_BOX_COPY_H_
#define ZEROCAST_CLIENT_AGENT_BOX_COPY_H_

#include <cstdint>

#include "kernels/copy/box.h"
#include "kernels/copy/decode.h"
#include "kernels/copy/decode_box.h"
#include "kernels/copy/dtype.h"

namespace zerocast {

// One box with the memory of its two sides, which is not owned: what a chunk or a message is made
// of, whoever executes it.
struct BoxCopy {
  // Source places count from `source`, target places from `target`, in elements.
  Box box;
  const char* source = nullptr;
  DType source_dtype = DType::kInvalid;
  char* target = nullptr;
  DType target_dtype = DType::kInvalid;
  // Not null: the source is quantised, the box counts its logical elements from the first one of
  // the whole source, and `encoded`, not `source`, says what of it is in memory.
  const Decoder* decoder = nullptr;
  EncodedSource encoded;
};

// Executes `copy` on the calling thread, in host memory.  Returns the bytes that it wrote.
int64_t RunBoxCopy(const BoxCopy& copy);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_BOX_COPY_H_
