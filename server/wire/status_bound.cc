#include "server/wire/status_bound.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "google/rpc/error_details.pb.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

// Beside violations the message gets this share: it is what most people read.
constexpr int64_t kMessageShare = kMaxStatusBytes / 3;
// A field's path or description that is longer than this is cut, so that several find room.
constexpr size_t kMaxViolationText = 512;

// As gRPC's protocol says: what is not a printable ASCII character, and '%', takes three bytes.
int64_t PercentEncodedBytes(absl::string_view text) {
  int64_t bytes = 0;
  for (const char c : text) bytes += c >= ' ' && c <= '~' && c != '%' ? 1 : 3;
  return bytes;
}

int64_t Base64Bytes(size_t bytes) { return (static_cast<int64_t>(bytes) + 2) / 3 * 4; }

// The first `limit` bytes of `text`, or fewer: no character is cut.
absl::string_view Head(absl::string_view text, size_t limit) {
  if (limit >= text.size()) return text;
  const auto continues = [&text](size_t at) {
    return (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80;
  };
  while (limit > 0 && continues(limit)) --limit;
  return text.substr(0, limit);
}

std::string Cut(absl::string_view text, size_t limit) {
  const absl::string_view head = Head(text, limit);
  if (head.size() == text.size()) return std::string(text);
  return absl::StrCat(head, "... (cut: ", text.size() - head.size(), " more bytes)");
}

// What a message takes: it comes twice, by itself and in the details.
int64_t MessageBytes(absl::string_view message) {
  return PercentEncodedBytes(message) + Base64Bytes(message.size());
}

// The most of `text`, cut, that takes at most `budget` as a message.
std::string CutMessage(const std::string& text, int64_t budget) {
  if (MessageBytes(text) <= budget) return text;
  size_t good = 0, bad = text.size();
  while (bad - good > 1) {
    const size_t middle = good + (bad - good) / 2;
    (MessageBytes(Cut(text, middle)) <= budget ? good : bad) = middle;
  }
  return Cut(text, good);
}

// The first `count` violations of `all`, and how many more there are.
google::rpc::BadRequest Keep(const google::rpc::BadRequest& all, int count) {
  google::rpc::BadRequest kept;
  for (int i = 0; i < count; ++i) {
    auto* const violation = kept.add_field_violations();
    violation->set_field(Cut(all.field_violations(i).field(), kMaxViolationText));
    violation->set_description(Cut(all.field_violations(i).description(), kMaxViolationText));
  }
  if (count < all.field_violations_size()) {
    auto* const rest = kept.add_field_violations();
    rest->set_field("...");
    rest->set_description(
        absl::StrCat("(cut: ", all.field_violations_size() - count, " more violations)"));
  }
  return kept;
}

// As many violations as take at most `budget`.
google::rpc::BadRequest KeepWithin(const google::rpc::BadRequest& all, int64_t budget) {
  if (Base64Bytes(all.ByteSizeLong()) <= budget) return all;
  int good = 0, bad = all.field_violations_size() + 1;
  while (bad - good > 1) {
    const int middle = good + (bad - good) / 2;
    (Base64Bytes(Keep(all, middle).ByteSizeLong()) <= budget ? good : bad) = middle;
  }
  return Keep(all, good);
}

// The details that say the reason and when to try again are small; all other kinds can be missed.
bool IsSmallKind(absl::string_view url) {
  return url == kErrorInfoUrl || absl::EndsWith(url, "/google.rpc.RetryInfo");
}

}  // namespace

int64_t StatusBytesOnTheWire(const google::rpc::Status& status) {
  return PercentEncodedBytes(status.message()) + Base64Bytes(status.ByteSizeLong());
}

void BoundStatus(google::rpc::Status* status) {
  if (StatusBytesOnTheWire(*status) <= kMaxStatusBytes) return;
  google::rpc::Status bounded;
  bounded.set_code(status->code());
  google::rpc::BadRequest violations;
  for (const auto& detail : status->details()) {
    if (detail.type_url() == kBadRequestUrl) {
      violations.ParseFromString(detail.value());
    } else if (IsSmallKind(detail.type_url()) && detail.value().size() <= kMaxViolationText) {
      *bounded.add_details() = detail;
    }
  }
  auto* const detail = bounded.add_details();
  detail->set_type_url(std::string(kBadRequestUrl));
  // Lengths of parts that are to come take a few bytes each, and base64 rounds up.
  constexpr int64_t kSlack = 32;
  const int64_t budget = kMaxStatusBytes - StatusBytesOnTheWire(bounded) - kSlack;
  const int64_t for_message =
      std::max(kMessageShare, budget - Base64Bytes(violations.ByteSizeLong()));
  bounded.set_message(CutMessage(status->message(), for_message));
  const int64_t left = budget - MessageBytes(bounded.message());
  detail->set_value(KeepWithin(violations, left).SerializeAsString());
  if (violations.field_violations_size() == 0) bounded.mutable_details()->RemoveLast();
  *status = std::move(bounded);
}

}  // namespace zerocast
