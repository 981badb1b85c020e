#include "server/base/errors.h"

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace zerocast {
namespace {

// The two google.rpc details are written in protobuf's wire format by hand, a few fields of type
// string each, so that this room does not depend on protobuf; server/wire's test compares the bytes
// with the generated classes'.
constexpr absl::string_view kDomain = "zerocast.dev";

void AppendVarint(uint64_t value, std::string* out) {
  while (value >= 0x80) {
    out->push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out->push_back(static_cast<char>(value));
}

void AppendString(int field, absl::string_view value, std::string* out) {
  AppendVarint(static_cast<uint64_t>(field) << 3 | 2, out);
  AppendVarint(value.size(), out);
  out->append(value.data(), value.size());
}

bool ReadVarint(absl::string_view* in, uint64_t* value) {
  *value = 0;
  for (int shift = 0; shift < 64 && !in->empty(); shift += 7) {
    const uint8_t byte = static_cast<uint8_t>(in->front());
    in->remove_prefix(1);
    *value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

// Reads the next length-delimited field; false at the end or on anything else.
bool ReadString(absl::string_view* in, int* field, absl::string_view* value) {
  uint64_t tag, length;
  if (in->empty() || !ReadVarint(in, &tag) || (tag & 7) != 2) return false;
  if (!ReadVarint(in, &length) || length > in->size()) return false;
  *field = static_cast<int>(tag >> 3);
  *value = in->substr(0, length);
  in->remove_prefix(length);
  return true;
}

}  // namespace

absl::Status WithReason(absl::Status status, absl::string_view reason) {
  if (status.ok() || status.GetPayload(kErrorInfoUrl).has_value()) return status;
  std::string info;
  AppendString(1, reason, &info);
  AppendString(2, kDomain, &info);
  status.SetPayload(kErrorInfoUrl, absl::Cord(info));
  return status;
}

std::string ReasonOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kErrorInfoUrl);
  if (!payload.has_value()) return "";
  const std::string bytes(*payload);
  absl::string_view in = bytes, value;
  int field;
  while (ReadString(&in, &field, &value)) {
    if (field == 1) return std::string(value);
  }
  return "";
}

absl::Status InvalidFields(const std::vector<FieldViolation>& violations) {
  if (violations.empty()) return absl::OkStatus();
  std::string details;
  for (const FieldViolation& violation : violations) {
    std::string one;
    AppendString(1, violation.field, &one);
    AppendString(2, violation.description, &one);
    AppendString(1, one, &details);
  }
  absl::Status status = absl::InvalidArgumentError(
      absl::StrJoin(violations, "; ", [](std::string* out, const FieldViolation& violation) {
        absl::StrAppend(out, violation.field, ": ", violation.description);
      }));
  status.SetPayload(kBadRequestUrl, absl::Cord(details));
  return WithReason(std::move(status), "INVALID_FIELDS");
}

std::vector<FieldViolation> ViolationsOf(const absl::Status& status) {
  std::vector<FieldViolation> violations;
  const auto payload = status.GetPayload(kBadRequestUrl);
  if (!payload.has_value()) return violations;
  const std::string bytes(*payload);
  absl::string_view in = bytes, one;
  int field;
  while (ReadString(&in, &field, &one)) {
    FieldViolation violation;
    absl::string_view value;
    int inner;
    while (ReadString(&one, &inner, &value)) {
      if (inner == 1) violation.field = std::string(value);
      if (inner == 2) violation.description = std::string(value);
    }
    violations.push_back(std::move(violation));
  }
  return violations;
}

absl::Status WithMessage(const absl::Status& status, absl::string_view message) {
  absl::Status out(status.code(), message);
  status.ForEachPayload(
      [&out](absl::string_view url, const absl::Cord& payload) { out.SetPayload(url, payload); });
  return out;
}

absl::Status Annotate(const absl::Status& status, absl::string_view prefix) {
  if (status.ok()) return status;
  return WithMessage(status, absl::StrCat(prefix, ": ", status.message()));
}

absl::Status ErrnoStatus(int error_number, absl::string_view what) {
  const std::string message = absl::StrCat(what, ": ", std::strerror(error_number));
  switch (error_number) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(message);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(message);
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case ENOMEM:
    case EMFILE:
    case ENFILE:
      return absl::ResourceExhaustedError(message);
    case EEXIST:
      return absl::AlreadyExistsError(message);
    case EISDIR:
    case EINVAL:
    case ENAMETOOLONG:
    case ELOOP:
      return absl::InvalidArgumentError(message);
    case ETIMEDOUT:
      return absl::DeadlineExceededError(message);
    default:
      return absl::UnavailableError(message);
  }
}

}  // namespace zerocast
