#ifndef ZEROCAST_CLIENT_FORMATS_OUTPUT_FOLDER_H_
#define ZEROCAST_CLIENT_FORMATS_OUTPUT_FOLDER_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace zerocast {

// A folder that appears under its name only when everything in it is complete: filled beside it,
// renamed by Commit(), removed by the destructor otherwise.  Move-only.
class OutputFolder {
 public:
  // `path` must not exist yet, or be an empty folder; the folder it lies in must exist.  Errors:
  // ALREADY_EXISTS (naming it, it is left as it is), NOT_FOUND (the folder it lies in),
  // INVALID_ARGUMENT ("" or "/"), PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNAVAILABLE.
  static absl::StatusOr<OutputFolder> Create(const std::string& path);

  OutputFolder(OutputFolder&& other) noexcept;
  OutputFolder& operator=(OutputFolder&&) = delete;
  ~OutputFolder();

  // Where to write until Commit.
  const std::string& staging() const { return staging_; }
  // `name`, which may be "a/b", in staging().
  std::string File(const std::string& name) const { return staging_ + "/" + name; }
  // Makes the folders of `name`, "a/b", in staging().
  absl::Status MakeFolder(const std::string& name) const;
  absl::Status Commit();

 private:
  OutputFolder() = default;
  std::string path_, staging_;
};

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_OUTPUT_FOLDER_H_
