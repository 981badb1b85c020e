#include "client/cli/shard_output.h"

#include <stdlib.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "client/cli/interruption.h"
#include "client/cli/output.h"
#include "client/cpp/attach.h"
#include "client/formats/file.h"
#include "client/formats/safetensors_writer.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

constexpr char kReport[] = "report.json";

// Where the files of an output are written: a hidden folder in the folder of --out, which goes
// again with what is left in it.  Not movable.
class StagedFiles {
 public:
  explicit StagedFiles(std::string folder) : folder_(std::move(folder)) {}
  ~StagedFiles() {
    std::error_code ignored;
    if (!staging_.empty()) std::filesystem::remove_all(staging_, ignored);
  }
  StagedFiles(const StagedFiles&) = delete;
  StagedFiles& operator=(const StagedFiles&) = delete;

  absl::Status Make() {
    std::string path = absl::StrCat(folder_, "/.zerocast_XXXXXX");
    if (::mkdtemp(path.data()) == nullptr) {
      return WithReason(ErrnoStatus(errno, absl::StrCat("make a folder in ", folder_)), "IO_ERROR");
    }
    staging_ = std::move(path);
    OnInterrupt::Actions actions;
    actions.at_end = [folder = staging_] { RemoveForGood(folder); };
    on_interrupt_.emplace(std::move(actions));
    return absl::OkStatus();
  }

  // Where to write the file that is to be called `name`.
  std::string Add(const std::string& name) {
    names_.push_back(name);
    return absl::StrCat(staging_, "/", name);
  }

  // Puts every file in its place, the last one added last; that one is missing meanwhile.
  absl::Status Publish() const {
    // What has begun ends: half of the files in place are worse than a second more.
    OnInterrupt::Actions to_the_end;
    to_the_end.patience = absl::Seconds(10);
    const OnInterrupt on_interrupt(std::move(to_the_end));
    ZC_RETURN_IF_ERROR(CheckInterrupted());
    for (const std::string& name : names_) {
      std::error_code error;
      if (std::filesystem::is_directory(Target(name), error)) {
        return WithReason(
            absl::FailedPreconditionError(absl::StrCat(
                "write ", Target(name), ": a folder has that name; give another folder")),
            "WRONG_STATE");
      }
    }
    if (::unlink(Target(names_.back()).c_str()) != 0 && errno != ENOENT) {
      return WithReason(ErrnoStatus(errno, absl::StrCat("remove ", Target(names_.back()))),
                        "IO_ERROR");
    }
    for (const std::string& name : names_) {
      if (::rename(absl::StrCat(staging_, "/", name).c_str(), Target(name).c_str()) == 0) continue;
      const int error_number = errno;
      return WithReason(
          ErrnoStatus(error_number, absl::StrCat("rename to ", Target(name), " (", folder_,
                                                 " is incomplete now and has no ", names_.back(),
                                                 "; write it again)")),
          "IO_ERROR");
    }
    return absl::OkStatus();
  }

 private:
  std::string Target(const std::string& name) const { return absl::StrCat(folder_, "/", name); }

  const std::string folder_;
  std::string staging_;  // empty: not made
  std::optional<OnInterrupt> on_interrupt_;
  std::vector<std::string> names_;
};

absl::string_view FilePrefix(ShardFile kind) {
  return kind == ShardFile::kPrimary ? "rank_" : "secondary_";
}

absl::string_view BytesOf(const AttachedShard& shard, const ShardTensor& tensor, int64_t offset,
                          int64_t elements) {
  if (elements == 0) return absl::string_view();
  return absl::string_view(shard.data() + offset,
                           static_cast<size_t>(elements * SizeOf(tensor.dtype)));
}

// The names of targets without content, as a JSON list: their zeros are no weights.
std::string UnfilledNames(const AttachedShard& shard, bool buffers) {
  nlohmann::json names = nlohmann::json::array();
  for (const ShardTensor& tensor : shard.tensors()) {
    if (tensor.is_buffer == buffers && !tensor.is_filled) names.push_back(tensor.name);
  }
  return names.dump();
}

absl::Status WriteRank(const AttachedShard& shard, int32_t rank, ShardFile kind,
                       const std::string& path) {
  const bool secondary = kind == ShardFile::kSecondary;
  nlohmann::ordered_json shapes = nlohmann::ordered_json::object();
  std::vector<TensorToWrite> tensors;
  for (const ShardTensor& tensor : shard.tensors()) {
    if (tensor.is_buffer) continue;
    const int64_t elements = secondary ? tensor.secondary_elements : tensor.elements;
    const int64_t offset = secondary ? tensor.secondary_offset : tensor.offset;
    shapes[tensor.name] = tensor.shape;
    tensors.push_back(
        {tensor.name, tensor.dtype, {elements}, BytesOf(shard, tensor, offset, elements)});
  }
  std::map<std::string, std::string> metadata = {
      {"format", "pt"},
      {"rank", absl::StrCat(rank)},
      {"world_size", absl::StrCat(shard.world_size())},
      {"plan_digest", shard.plan_digest()},
      {"shapes", shapes.dump()},
      {"unfilled", UnfilledNames(shard, /*buffers=*/false)}};
  if (secondary) {
    metadata["secondary_group_size"] = absl::StrCat(shard.secondary_group_size());
  }
  return WriteSafetensors(path, tensors, metadata);
}

absl::Status WriteBuffers(const AttachedShard& shard, const std::string& path) {
  std::vector<TensorToWrite> tensors;
  for (const ShardTensor& tensor : shard.tensors()) {
    if (!tensor.is_buffer) continue;
    tensors.push_back({tensor.name, tensor.dtype, tensor.shape,
                       BytesOf(shard, tensor, tensor.offset, tensor.elements)});
  }
  return WriteSafetensors(path, tensors,
                          {{"format", "pt"},
                           {"plan_digest", shard.plan_digest()},
                           {"unfilled", UnfilledNames(shard, /*buffers=*/true)}});
}

// The files of one rank.
absl::Status WriteFilesOf(const AttachedShard& shard, int32_t rank, StagedFiles* files) {
  for (const ShardFile kind : {ShardFile::kPrimary, ShardFile::kSecondary}) {
    if (kind == ShardFile::kSecondary && shard.secondary_group_size() == 0) continue;
    const std::string name = absl::StrFormat("%s%05d.safetensors", FilePrefix(kind), rank);
    ZC_RETURN_IF_ERROR(WriteRank(shard, rank, kind, files->Add(name)));
  }
  return rank == 0 ? WriteBuffers(shard, files->Add("buffers.safetensors")) : absl::OkStatus();
}

// The last ones first; rmdir leaves a folder alone that somebody has put something into.
void RemoveEmpty(const std::vector<std::string>& folders) {
  for (auto path = folders.rbegin(); path != folders.rend(); ++path) ::rmdir(path->c_str());
}

}  // namespace

absl::StatusOr<ShardFolder> ShardFolder::Create(const std::string& path) {
  ShardFolder folder;
  std::error_code error;
  std::filesystem::path missing = std::filesystem::absolute(path, error).lexically_normal();
  if (!error && missing.filename().empty()) missing = missing.parent_path();
  while (!error && !std::filesystem::exists(missing, error) && missing.has_relative_path()) {
    folder.made_.insert(folder.made_.begin(), missing.string());
    missing = missing.parent_path();
  }
  std::filesystem::create_directories(path, error);
  if (error) {
    return WithReason(ErrnoStatus(error.value(), absl::StrCat("create folder ", path)), "IO_ERROR");
  }
  // access() would say yes to root on a read-only file system; a real file cannot be wrong.
  ZC_ASSIGN_OR_RETURN(OutputFile probe, OutputFile::Create(absl::StrCat(path, "/.zerocast_probe")));
  ZC_RETURN_IF_ERROR(probe.Append("probe"));
  OnInterrupt::Actions actions;
  actions.at_end = [made = folder.made_] { RemoveEmpty(made); };
  folder.on_interrupt_ = std::make_unique<OnInterrupt>(std::move(actions));
  return folder;
}

ShardFolder::ShardFolder(ShardFolder&& other) noexcept
    : made_(std::move(other.made_)), on_interrupt_(std::move(other.on_interrupt_)) {
  other.made_.clear();
}

ShardFolder::~ShardFolder() { RemoveEmpty(made_); }

absl::Status CheckNoOtherRanks(const std::string& folder, ShardFile kind, int32_t num_ranks) {
  constexpr absl::string_view kSuffix = ".safetensors";
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    absl::string_view number = name;
    int64_t rank;
    if (!absl::ConsumePrefix(&number, FilePrefix(kind)) || !absl::ConsumeSuffix(&number, kSuffix) ||
        !absl::SimpleAtoi(number, &rank) || rank < num_ranks) {
      continue;
    }
    return WithReason(absl::FailedPreconditionError(absl::StrCat(
                          "write to ", folder, ": it holds ", name, " of another load, which ",
                          num_ranks, " ranks would not replace; give an empty folder")),
                      "WRONG_STATE");
  }
  return absl::OkStatus();
}

absl::Status WriteShards(const v1::Load& load, const std::string& attach_token, bool on_devices,
                         const std::string& folder) {
  StagedFiles files(folder);
  ZC_RETURN_IF_ERROR(files.Make());
  for (const v1::Shard& entry : load.shards()) {
    ZC_RETURN_IF_ERROR(CheckInterrupted());
    AttachOptions options;
    options.socket_path = entry.agent_socket();
    options.load = load.name();
    options.rank = entry.rank();
    options.token = attach_token;
    options.shared = on_devices;
    absl::StatusOr<AttachedShard> shard = Attach(options);
    if (!shard.ok()) {
      return Annotate(shard.status(),
                      absl::StrCat("take rank ", entry.rank(), " from node ", entry.node_name(),
                                   " (--out needs the agents on this host)"));
    }
    ZC_RETURN_IF_ERROR(shard->MoveToHost());
    ZC_RETURN_IF_ERROR(WriteFilesOf(*shard, entry.rank(), &files));
  }
  ZC_ASSIGN_OR_RETURN(OutputFile report, OutputFile::Create(files.Add(kReport)));
  ZC_RETURN_IF_ERROR(report.Append(absl::StrCat(LoadJson(load).dump(2), "\n")));
  ZC_RETURN_IF_ERROR(report.Commit());
  return files.Publish();
}

}  // namespace zerocast
