#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/conversion/pattern.h"

namespace zerocast {
namespace {

// Rule patterns need a few hundred steps a key; a pattern that needs this many is catastrophic.
constexpr uint32_t kMatchLimit = 1000000;
constexpr size_t kMaxPatternLength = 1 << 16;
constexpr size_t kJitStackMin = 32 * 1024;
constexpr size_t kJitStackMax = 1024 * 1024;

// The library's settings, made once and never changed.
const pcre2_compile_context* CompileContext() {
  static const pcre2_compile_context* const context = [] {
    pcre2_compile_context* made = pcre2_compile_context_create(nullptr);
    // Python's `.` stops at a line feed only, whatever PCRE2 was built with.
    pcre2_set_newline(made, PCRE2_NEWLINE_LF);
    pcre2_set_max_pattern_length(made, kMaxPatternLength);
    return made;
  }();
  return context;
}

std::string ErrorText(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

struct Regex::Impl {
  std::string pattern;
  pcre2_code* code = nullptr;
  pcre2_match_data* data = nullptr;
  pcre2_match_context* context = nullptr;
  pcre2_jit_stack* stack = nullptr;
  absl::string_view subject;
  int count = 0;
  bool tried_jit = false;

  void CompileToMachineCode();

  ~Impl() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
    pcre2_code_free(code);
  }
};

Regex::Regex(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
Regex::~Regex() = default;

absl::StatusOr<Regex> Regex::Compile(absl::string_view pattern) {
  auto impl = std::make_unique<Impl>();
  impl->pattern = std::string(pattern);
  int error = 0;
  PCRE2_SIZE offset = 0;
  impl->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(impl->pattern.data()),
                             impl->pattern.size(), PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C,
                             &error, &offset, const_cast<pcre2_compile_context*>(CompileContext()));
  if (impl->code == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("compile the pattern '", pattern,
                                                   "': ", ErrorText(error), " at offset ", offset));
  }
  impl->data = pcre2_match_data_create_from_pattern(impl->code, nullptr);
  impl->context = pcre2_match_context_create(nullptr);
  pcre2_set_match_limit(impl->context, kMatchLimit);
  return Regex(std::move(impl));
}

// Left to the first search: the catalogue is compiled to be checked, and mostly never searched.
// Without JIT (a hardened kernel, another processor) the interpreter answers the same, slower.
void Regex::Impl::CompileToMachineCode() {
  tried_jit = true;
  if (pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) != 0) return;
  stack = pcre2_jit_stack_create(kJitStackMin, kJitStackMax, nullptr);
  pcre2_jit_stack_assign(context, nullptr, stack);
}

absl::StatusOr<bool> Regex::Search(absl::string_view subject) {
  if (!impl_->tried_jit) impl_->CompileToMachineCode();
  // data() of an empty view may be null, which PCRE2 refuses.
  const char* const begin = subject.empty() ? "" : subject.data();
  const int rc = pcre2_match(impl_->code, reinterpret_cast<PCRE2_SPTR>(begin), subject.size(), 0, 0,
                             impl_->data, impl_->context);
  if (rc > 0) {
    impl_->subject = absl::string_view(begin, subject.size());
    impl_->count = rc;
    return true;
  }
  if (rc == PCRE2_ERROR_NOMATCH) return false;
  const std::string what =
      absl::StrCat("match the pattern '", impl_->pattern, "' on '", subject, "': ", ErrorText(rc));
  if (rc == PCRE2_ERROR_MATCHLIMIT || rc == PCRE2_ERROR_DEPTHLIMIT || rc == PCRE2_ERROR_HEAPLIMIT ||
      rc == PCRE2_ERROR_JIT_STACKLIMIT) {
    // The pattern is at fault, not a resource: a call that is repeated ends here again.
    return absl::InvalidArgumentError(absl::StrCat(what, "; write it so that it backtracks less"));
  }
  return absl::InvalidArgumentError(what);
}

Regex::Group Regex::group(int number) const {
  if (number < 0 || number >= impl_->count) return {};
  const PCRE2_SIZE* const ends = pcre2_get_ovector_pointer(impl_->data);
  const PCRE2_SIZE begin = ends[2 * number], end = ends[2 * number + 1];
  // \K inside a look-around can put the end before the beginning.
  if (begin == PCRE2_UNSET || end == PCRE2_UNSET || end < begin) return {};
  return {true, impl_->subject.substr(begin, end - begin)};
}

absl::string_view Regex::pattern() const { return impl_->pattern; }

int Regex::GroupNumber(const char* name) const {
  const int number =
      pcre2_substring_number_from_name(impl_->code, reinterpret_cast<PCRE2_SPTR>(name));
  return number > 0 ? number : -1;
}

}  // namespace zerocast
