#include "client/agent/box_copy.h"

#include "kernels/copy/copy.h"

namespace zerocast {

int64_t RunBoxCopy(const BoxCopy& copy) {
  if (copy.decoder == nullptr) {
    CopyBox(copy.box, copy.source, copy.source_dtype, copy.target, copy.target_dtype);
  } else {
    DecodeBox(copy.box, *copy.decoder, copy.encoded, copy.target, copy.target_dtype);
  }
  return NumElements(copy.box) * SizeOf(copy.target_dtype);
}

}  // namespace zerocast
