#ifndef ZEROCAST_CLIENT_CLI_CONFIG_INPUT_H_
#define ZEROCAST_CLIENT_CLI_CONFIG_INPUT_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/cli/command.h"
#include "client/cli/embedded.h"

namespace zerocast {

// What the config commands share: where configs come from, and whom they ask.

// Reads the text that `flag` names: a file, or "-" for stdin.  Errors: INVALID_ARGUMENT naming the
// flag for more than `max_bytes` and for what is not UTF-8, which gRPC would refuse without a
// word; those of the file.
absl::StatusOr<std::string> ReadInput(absl::string_view flag, const std::string& path,
                                      int64_t max_bytes);
// The same without the check of UTF-8.
absl::StatusOr<std::string> ReadBytes(absl::string_view flag, const std::string& path,
                                      int64_t max_bytes);

// More than any config the server takes, so that it says what is wrong with a large one.
inline constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;
// The same of a model's config or spec.
inline constexpr int64_t kMaxModelBytes = int64_t{32} << 20;

// The server that was named, or one in this process.
absl::StatusOr<ClusterHandle> ConnectForConfigs(const GlobalOptions& global);

// `text` cut into lines of at most 80 columns, all but the first behind `indent` spaces; the first
// begins at column `column`.  Words longer than a line are cut, or kept for who copies them.
enum class LongWords { kCut, kKeep };
std::string WrapText(absl::string_view text, size_t column, size_t indent,
                     LongWords long_words = LongWords::kCut);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_CLI_CONFIG_INPUT_H_
