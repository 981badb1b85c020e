#include "client/verify/cast.h"

#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace zerocast::verify {
namespace {

// An IEEE-like format: sign, exponent, mantissa.
struct Format {
  int num_exponent_bits;
  int num_mantissa_bits;
  bool has_infinity;  // else the largest exponent holds numbers, and all ones is NaN (e4m3fn)

  int num_bits() const { return 1 + num_exponent_bits + num_mantissa_bits; }
  int bias() const { return (1 << (num_exponent_bits - 1)) - 1; }
  uint64_t mantissa_mask() const { return (uint64_t{1} << num_mantissa_bits) - 1; }
  uint64_t exponent_mask() const { return (uint64_t{1} << num_exponent_bits) - 1; }
};

Format FormatOf(DType dtype) {
  switch (dtype) {
    case DType::kFloat8E4M3:
      return {4, 3, false};
    case DType::kFloat8E5M2:
      return {5, 2, true};
    case DType::kFloat16:
      return {5, 10, true};
    case DType::kBFloat16:
      return {8, 7, true};
    case DType::kFloat32:
      return {8, 23, true};
    default:
      return {11, 52, true};
  }
}

// A decoded number: mantissa * 2^exponent, where an integer has the exponent 0, or the payload of a
// NaN.
struct Number {
  enum Kind { kFinite, kInfinite, kNan } kind = kFinite;
  bool negative = false;
  uint64_t mantissa = 0;
  int exponent = 0;
};

Number Decode(uint64_t bits, const Format& format) {
  Number number;
  number.negative = (bits >> (format.num_bits() - 1) & 1) != 0;
  const uint64_t exponent = bits >> format.num_mantissa_bits & format.exponent_mask();
  const uint64_t mantissa = bits & format.mantissa_mask();
  if (exponent == format.exponent_mask()) {
    if (format.has_infinity && mantissa == 0) {
      number.kind = Number::kInfinite;
      return number;
    }
    if (format.has_infinity || mantissa == format.mantissa_mask()) {
      number.kind = Number::kNan;
      number.mantissa = mantissa << (64 - format.num_mantissa_bits);  // left-aligned
      return number;
    }
  }
  const int biased = exponent == 0 ? 1 : static_cast<int>(exponent);
  number.mantissa = exponent == 0 ? mantissa : mantissa | uint64_t{1} << format.num_mantissa_bits;
  number.exponent = biased - format.bias() - format.num_mantissa_bits;
  return number;
}

Number DecodeInteger(uint64_t bits, DType dtype) {
  Number number;
  number.mantissa = dtype == DType::kBool ? uint64_t{bits != 0} : bits;
  const int num_bits = 8 * static_cast<int>(SizeOf(dtype));
  if (!IsSignedInteger(dtype) || (bits >> (num_bits - 1) & 1) == 0) return number;
  number.negative = true;
  // Two's complement of so many bits; 2 * half is 0 where there are 64 of them.
  const uint64_t half = uint64_t{1} << (num_bits - 1);
  number.mantissa = 2 * half - bits;
  return number;
}

// mantissa / 2^shift, to nearest, ties to even; a negative shift multiplies.
uint64_t ShiftRounded(uint64_t mantissa, int shift) {
  if (shift <= 0) return mantissa << -shift;
  if (shift > 64) return 0;
  const uint64_t half = uint64_t{1} << (shift - 1);
  const uint64_t rest = shift == 64 ? mantissa : mantissa & (2 * half - 1);
  const uint64_t whole = shift == 64 ? 0 : mantissa >> shift;
  const bool up = rest > half || (rest == half && (whole & 1) != 0);
  return whole + (up ? 1 : 0);
}

// The magnitude's bits of a finite number, rounded.
uint64_t EncodeFinite(const Number& number, const Format& format) {
  if (number.mantissa == 0) return 0;
  const int top = 63 - __builtin_clzll(number.mantissa) + number.exponent;
  const int smallest = 1 - format.bias();
  const int unit = (top > smallest ? top : smallest) - format.num_mantissa_bits;
  const uint64_t mantissa = ShiftRounded(number.mantissa, unit - number.exponent);
  const int64_t biased = unit + format.num_mantissa_bits + format.bias();
  // The mantissa's leading one adds the last 1 to the exponent; a subnormal has none.
  const uint64_t infinity = format.exponent_mask() << format.num_mantissa_bits;
  const uint64_t largest = format.has_infinity ? infinity : infinity | (format.mantissa_mask() - 1);
  if (biased > static_cast<int64_t>(format.exponent_mask()) + 1) return largest;
  const uint64_t bits = (static_cast<uint64_t>(biased - 1) << format.num_mantissa_bits) + mantissa;
  return bits < largest ? bits : largest;
}

// The bits of a NaN, as torch leaves them.
uint64_t EncodeNan(const Number& number, DType from, DType to, const Format& format) {
  const uint64_t exponent = format.exponent_mask() << format.num_mantissa_bits;
  if (to == DType::kFloat8E4M3 || to == DType::kFloat8E5M2) {
    return exponent | format.mantissa_mask();
  }
  const uint64_t payload = number.mantissa >> (64 - format.num_mantissa_bits);
  // bfloat16 is the upper half of a float32: widening shifts and does not quiet.
  if (from == DType::kBFloat16 && to == DType::kFloat32) return exponent | payload;
  return exponent | payload | uint64_t{1} << (format.num_mantissa_bits - 1);
}

// The cast of one element, by its bits.
class Caster {
 public:
  Caster(DType from, DType to)
      : from_(from), to_(to), from_format_(FormatOf(from)), to_format_(FormatOf(to)) {}

  uint64_t operator()(uint64_t bits) const {
    const Number number =
        IsInteger(from_) ? DecodeInteger(bits, from_) : Decode(bits, from_format_);
    const uint64_t sign = uint64_t{number.negative} << (to_format_.num_bits() - 1);
    switch (number.kind) {
      case Number::kNan:
        // One NaN, without a sign: torch's vectorised kernels set all bits, its scalar ones do not.
        if (to_ == DType::kBFloat16) return from_ == DType::kFloat32 ? 0xffff : 0x7fc0;
        return sign | EncodeNan(number, from_, to_, to_format_);
      case Number::kInfinite:
        if (!to_format_.has_infinity) return sign | 0x7e;  // 448, the largest number
        return sign | to_format_.exponent_mask() << to_format_.num_mantissa_bits;
      case Number::kFinite:
        break;
    }
    return sign | EncodeFinite(number, to_format_);
  }

 private:
  DType from_, to_;
  Format from_format_, to_format_;
};

// `From` and `To` are unsigned integers of the elements' sizes.
template <typename From, typename To>
std::string CastElements(const std::string& bytes, const Caster& caster) {
  const size_t count = bytes.size() / sizeof(From);
  std::string result(count * sizeof(To), '\0');
  // A narrow type has few values: each is cast once.
  std::vector<To> table;
  if constexpr (sizeof(From) <= 2) {
    const size_t num_values = size_t{1} << (8 * sizeof(From));
    if (count >= num_values) {
      table.resize(num_values);
      for (size_t i = 0; i < num_values; ++i) table[i] = static_cast<To>(caster(i));
    }
  }
  for (size_t i = 0; i < count; ++i) {
    From bits;
    std::memcpy(&bits, bytes.data() + i * sizeof(From), sizeof(From));
    const To cast = table.empty() ? static_cast<To>(caster(bits)) : table[bits];
    std::memcpy(result.data() + i * sizeof(To), &cast, sizeof(To));
  }
  return result;
}

template <typename From>
std::string CastFrom(const std::string& bytes, const Caster& caster, int64_t to_size) {
  switch (to_size) {
    case 1:
      return CastElements<From, uint8_t>(bytes, caster);
    case 2:
      return CastElements<From, uint16_t>(bytes, caster);
    case 4:
      return CastElements<From, uint32_t>(bytes, caster);
    default:
      return CastElements<From, uint64_t>(bytes, caster);
  }
}

std::string CastToFloats(const std::string& bytes, DType from, DType to) {
  const Caster caster(from, to);
  switch (SizeOf(from)) {
    case 1:
      return CastFrom<uint8_t>(bytes, caster, SizeOf(to));
    case 2:
      return CastFrom<uint16_t>(bytes, caster, SizeOf(to));
    case 4:
      return CastFrom<uint32_t>(bytes, caster, SizeOf(to));
    default:
      return CastFrom<uint64_t>(bytes, caster, SizeOf(to));
  }
}

}  // namespace

absl::StatusOr<std::string> CastBytes(std::string bytes, DType from, DType to) {
  if (from == to) return bytes;
  if (!IsFloating(to) || (!IsFloating(from) && !IsInteger(from))) {
    return absl::UnimplementedError(absl::StrCat("a cast from dtype ", static_cast<int>(from),
                                                 " to dtype ", static_cast<int>(to),
                                                 " is not one to a floating type"));
  }
  if ((from == DType::kFloat64 || IsInteger(from)) && SizeOf(to) < 4) {
    return CastToFloats(CastToFloats(bytes, from, DType::kFloat32), DType::kFloat32, to);
  }
  return CastToFloats(bytes, from, to);
}

DType PromotedDType(DType a, DType b) {
  if (a == b) return a;
  if (!IsFloating(a) || !IsFloating(b)) return DType::kInvalid;
  if (SizeOf(a) == SizeOf(b)) return DType::kFloat32;
  return SizeOf(a) > SizeOf(b) ? a : b;
}

}  // namespace zerocast::verify
