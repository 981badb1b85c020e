#include "client/cli/json_slices.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

absl::Status Refuse(absl::string_view what) { return InvalidFields({{"line", std::string(what)}}); }

class Splitter {
 public:
  explicit Splitter(absl::string_view text) : text_(text) {}

  absl::StatusOr<std::vector<JsonSlice>> Run() {
    std::vector<JsonSlice> members;
    ZC_RETURN_IF_ERROR(Expect('{'));
    SkipSpace();
    if (Peek() != '}') {
      while (true) {
        ZC_ASSIGN_OR_RETURN(JsonSlice member, Member());
        members.push_back(std::move(member));
        SkipSpace();
        if (Peek() != ',') break;
        ++at_;
      }
    }
    ZC_RETURN_IF_ERROR(Expect('}'));
    SkipSpace();
    if (at_ < text_.size()) return Unexpected("the end");
    return members;
  }

 private:
  // The byte at hand, or 0 at the end.
  char Peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  void SkipSpace() {
    while (Peek() == ' ' || Peek() == '\t' || Peek() == '\n' || Peek() == '\r') ++at_;
  }

  absl::Status Unexpected(absl::string_view wanted) const {
    return Refuse(absl::StrCat("is no JSON object: ", wanted, " expected at byte ", at_));
  }

  absl::Status Expect(char c) {
    SkipSpace();
    if (Peek() != c) return Unexpected(absl::StrCat("'", absl::string_view(&c, 1), "'"));
    ++at_;
    return absl::OkStatus();
  }

  absl::StatusOr<JsonSlice> Member() {
    SkipSpace();
    const size_t key_begin = at_;
    if (Peek() != '"' || !SkipString()) return Unexpected("a string");
    JsonSlice member;
    ZC_ASSIGN_OR_RETURN(member.key, ReadJsonString(text_.substr(key_begin, at_ - key_begin)));
    ZC_RETURN_IF_ERROR(Expect(':'));
    SkipSpace();
    const size_t begin = at_;
    if (!SkipValue() || at_ == begin) return Unexpected("a value");
    member.value = text_.substr(begin, at_ - begin);
    return member;
  }

  // From the opening quote to behind the closing one; false where there is none.
  bool SkipString() {
    for (++at_; at_ < text_.size(); ++at_) {
      if (text_[at_] == '\\') {
        ++at_;
      } else if (text_[at_] == '"') {
        ++at_;
        return true;
      }
    }
    return false;
  }

  // To the comma, bracket or space behind a value; false where it has no end.
  bool SkipValue() {
    int64_t depth = 0;
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '"') {
        if (!SkipString()) return false;
        if (depth == 0) return true;
        continue;
      }
      const bool closes = c == '}' || c == ']';
      if (depth == 0 && (closes || c == ',' || c == ' ' || c == '\t' || c == '\n' || c == '\r')) {
        return true;
      }
      ++at_;
      if (c == '{' || c == '[') ++depth;
      if (closes && --depth == 0) return true;
    }
    return depth == 0;
  }

  const absl::string_view text_;
  size_t at_ = 0;
};

}  // namespace

absl::StatusOr<std::vector<JsonSlice>> SplitObject(absl::string_view text) {
  return Splitter(text).Run();
}

absl::StatusOr<std::string> ReadJsonString(absl::string_view json) {
  const nlohmann::json value =
      nlohmann::json::parse(json.begin(), json.end(), nullptr, /*allow_exceptions=*/false);
  if (!value.is_string()) return Refuse("holds no JSON string where one is expected");
  return value.get<std::string>();
}

std::string WriteJsonString(absl::string_view text) {
  return nlohmann::json(std::string(text))
      .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace zerocast
