// `zerocast checkpoint reshard` and `to-universal`: a DeepSpeed folder from another.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/cli/checkpoint_commands.h"
#include "client/cli/checkpoint_folder.h"
#include "client/cli/job_flags.h"
#include "client/cli/output.h"
#include "client/cli/progress.h"
#include "client/formats/deepspeed/reshard.h"
#include "client/formats/deepspeed/shard_layout.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"

namespace zerocast {
namespace {

using Json = nlohmann::ordered_json;

struct ReshardFlags {
  CheckpointFlags checkpoint;
  OutputFlags output;
  int64_t world_size = 0;  // 0: the universal form

  void AddTo(CLI::App* command) {
    checkpoint.AddTo(command);
    output.AddOutTo(command);
    output.AddThreadsTo(command);
  }
};

Json WrittenJson(const ZeroCheckpoint& checkpoint, const ReshardFlags& flags,
                 const WrittenCheckpoint& written, double seconds) {
  const bool universal = flags.world_size == 0;
  return {{"folder", checkpoint.folder},
          {"tag", checkpoint.tag},
          {"step", checkpoint.global_steps < 0 ? Json(nullptr) : Json(checkpoint.global_steps)},
          {"stage", checkpoint.stage},
          {"world_size", checkpoint.world_size},
          {"universal", checkpoint.is_universal},
          {"out", flags.output.out},
          {"out_tag", written.tag},
          {"out_world_size", universal ? checkpoint.world_size : flags.world_size},
          {"out_universal", universal},
          {"parameters", checkpoint.parameters.size()},
          {"states", checkpoint.state_names},
          {"files", written.num_files},
          {"bytes", written.num_bytes},
          {"seconds", seconds}};
}

std::string Ranks(int64_t count) { return absl::StrCat(count, count == 1 ? " rank" : " ranks"); }

std::string WrittenText(const ZeroCheckpoint& checkpoint, const ReshardFlags& flags,
                        const WrittenCheckpoint& written, double seconds) {
  return absl::StrCat(
      EscapeControls(flags.output.out), "\n  ", EscapeControls(written.tag), ": ",
      flags.world_size == 0 ? "the universal form" : Ranks(flags.world_size), ", ",
      FormatBytes(written.num_bytes), " in ", written.num_files, " files",
      absl::StrFormat("\n  in %.2f s, ", seconds),
      FormatRate(static_cast<double>(written.num_bytes) / std::max(seconds, 1e-9)), "\n  of ",
      EscapeControls(checkpoint.tag), ": ",
      checkpoint.is_universal ? "the universal form, saved by " : "", Ranks(checkpoint.world_size),
      "\n  ZeRO stage ", checkpoint.stage, ", step ",
      checkpoint.global_steps < 0 ? "not known" : absl::StrCat(checkpoint.global_steps), ", ",
      checkpoint.parameters.size(),
      checkpoint.parameters.size() == 1 ? " parameter" : " parameters", "\n");
}

absl::Status RunReshard(const GlobalOptions& global, const ReshardFlags& flags) {
  const absl::Time start = absl::Now();
  ZC_ASSIGN_OR_RETURN(const ZeroCheckpoint checkpoint, ReadCheckpoint(flags.checkpoint));
  WrittenCheckpoint written;
  const absl::Status done =
      WriteFolder(flags.output.out, [&](const OutputFolder& folder) -> absl::Status {
        CopyProgress progress(flags.world_size == 0 ? "converting" : "resharding",
                              BytesToWrite(checkpoint), !global.json());
        const PieceCopier::Options options = CopyOptions(flags.output, &progress);
        ZC_ASSIGN_OR_RETURN(written,
                            flags.world_size == 0
                                ? WriteUniversalCheckpoint(checkpoint, folder, options)
                                : ReshardCheckpoint(checkpoint, flags.world_size, folder, options));
        return absl::OkStatus();
      });
  ZC_RETURN_IF_ERROR(done);
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  return PrintReport(global, WrittenJson(checkpoint, flags, written, seconds),
                     WrittenText(checkpoint, flags, written, seconds));
}

}  // namespace

void AddCheckpointReshard(CLI::App* checkpoint, const GlobalOptions* global, Run* run) {
  auto flags = std::make_shared<ReshardFlags>();
  CLI::App* command = checkpoint->add_subcommand(
      "reshard", "Write a checkpoint as an engine of another world size saves it");
  flags->AddTo(command);
  command->add_option("--world-size", flags->world_size, "Ranks of the engine that will load it")
      ->required()
      ->check(WholeNumber(1, kMaxWorldSize))
      ->type_name("N");
  command->callback(
      [flags, global, run] { *run = [flags, global] { return RunReshard(*global, *flags); }; });
}

void AddCheckpointToUniversal(CLI::App* checkpoint, const GlobalOptions* global, Run* run) {
  auto flags = std::make_shared<ReshardFlags>();
  CLI::App* command = checkpoint->add_subcommand(
      "to-universal", "Write a checkpoint in DeepSpeed's universal form");
  flags->AddTo(command);
  command->callback(
      [flags, global, run] { *run = [flags, global] { return RunReshard(*global, *flags); }; });
}

}  // namespace zerocast
