#ifndef ZEROCAST_SERVER_CONVERSION_PROMOTE_H_
#define ZEROCAST_SERVER_CONVERSION_PROMOTE_H_

#include "kernels/copy/dtype.h"

namespace zerocast {

// The dtype that holds values of both, as torch.promote_types; kInvalid is the neutral element. Two
// different 8-bit floats, which torch refuses to promote, give float32.
DType PromoteDTypes(DType a, DType b);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONVERSION_PROMOTE_H_
