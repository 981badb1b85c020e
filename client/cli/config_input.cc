#include "client/cli/config_input.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/formats/file.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"

namespace zerocast {
namespace {

constexpr size_t kColumns = 80;

absl::Status TooLarge(absl::string_view flag, absl::string_view path, int64_t max_bytes) {
  return InvalidFields(
      {{std::string(flag), absl::StrCat(path == "-" ? "stdin" : path, " has more than ", max_bytes,
                                        " bytes, the most that is read")}});
}

absl::StatusOr<std::string> ReadStdin(absl::string_view flag, int64_t max_bytes) {
  std::string text;
  char buffer[1 << 16];
  while (static_cast<int64_t>(text.size()) <= max_bytes) {
    const ssize_t got = ::read(STDIN_FILENO, buffer, sizeof(buffer));
    if (got == 0) return text;
    if (got > 0) {
      text.append(buffer, static_cast<size_t>(got));
    } else if (errno != EINTR) {
      return WithReason(ErrnoStatus(errno, "read stdin"), "IO_ERROR");
    }
  }
  return TooLarge(flag, "-", max_bytes);
}

}  // namespace

absl::StatusOr<std::string> ReadBytes(absl::string_view flag, const std::string& path,
                                      int64_t max_bytes) {
  if (path == "-") return ReadStdin(flag, max_bytes);
  absl::StatusOr<std::string> text = ReadTextFile(path, max_bytes);
  if (absl::IsResourceExhausted(text.status())) return TooLarge(flag, path, max_bytes);
  return text;
}

absl::StatusOr<std::string> ReadInput(absl::string_view flag, const std::string& path,
                                      int64_t max_bytes) {
  ZC_ASSIGN_OR_RETURN(std::string text, ReadBytes(flag, path, max_bytes));
  if (!IsValidUtf8(text)) {
    return InvalidFields(
        {{std::string(flag), absl::StrCat(path == "-" ? "stdin" : path, " is not UTF-8 text")}});
  }
  return text;
}

absl::StatusOr<ClusterHandle> ConnectForConfigs(const GlobalOptions& global) {
  ClusterHandle cluster;
  if (!global.server.empty()) {
    ZC_ASSIGN_OR_RETURN(cluster.remote, global.Connect());
    return cluster;
  }
  EmbeddedCluster::Options options;
  options.num_agents = 0;
  options.timeout = absl::Seconds(global.timeout_seconds);
  ZC_ASSIGN_OR_RETURN(cluster.embedded, EmbeddedCluster::Start(options));
  return cluster;
}

std::string WrapText(absl::string_view text, size_t column, size_t indent, LongWords long_words) {
  std::string out;
  const auto new_line = [&] {
    absl::StripTrailingAsciiWhitespace(&out);
    absl::StrAppend(&out, "\n", std::string(indent, ' '));
    column = indent;
  };
  bool first = true;
  for (absl::string_view word : absl::StrSplit(text, ' ')) {
    if (!first) {
      if (column + 1 + word.size() > kColumns && column > indent) {
        new_line();
      } else {
        out.push_back(' ');
        ++column;
      }
    }
    first = false;
    while (long_words == LongWords::kCut && column + word.size() > kColumns) {
      const size_t fits = kColumns - std::min(column, kColumns - 1);
      out.append(word.data(), fits);
      word.remove_prefix(fits);
      new_line();
    }
    out.append(word.data(), word.size());
    column += word.size();
  }
  return out;
}

}  // namespace zerocast
