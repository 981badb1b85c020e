#include "client/cli/checkpoint_output.h"

#include <google/protobuf/util/time_util.h>

#include <map>

#include "absl/strings/str_cat.h"
#include "client/cli/output.h"
#include "server/base/utf8.h"

namespace zerocast {

using Json = nlohmann::ordered_json;
using ::google::protobuf::util::TimeUtil;

std::string StateName(const v1::Checkpoint& checkpoint) {
  switch (checkpoint.state()) {
    case v1::CHECKPOINT_STATE_COMPLETE:
      return "complete";
    case v1::CHECKPOINT_STATE_INCOMPLETE:
      return "incomplete";
    case v1::CHECKPOINT_STATE_CHANGED:
      return "changed";
    case v1::CHECKPOINT_STATE_GONE:
      return "gone";
    default:
      return "unknown";
  }
}

std::string TimeText(const google::protobuf::Timestamp& time) {
  // Without fractions: people read it.
  return TimeUtil::ToString(TimeUtil::SecondsToTimestamp(time.seconds()));
}

Json CheckpointJson(const v1::Checkpoint& checkpoint) {
  Json document = {{"checkpoint", checkpoint.name()},
                   {"job", checkpoint.job()},
                   {"path", checkpoint.path()},
                   {"tag", checkpoint.tag()},
                   {"step", checkpoint.step()},
                   {"state", StateName(checkpoint)},
                   {"complete", checkpoint.complete()},
                   {"pinned", checkpoint.pinned()},
                   {"digest", checkpoint.digest()},
                   {"world_size", checkpoint.world_size()},
                   {"zero_stage", checkpoint.zero_stage()},
                   {"num_files", checkpoint.num_files()},
                   {"num_bytes", checkpoint.num_bytes()},
                   {"looked_by", checkpoint.looked_by()},
                   {"etag", checkpoint.etag()}};
  const auto add_time = [&document](const char* key, bool has, const auto& time) {
    document[key] = has ? Json(TimeUtil::ToString(time)) : Json(nullptr);
  };
  add_time("create_time", checkpoint.has_create_time() && !checkpoint.name().empty(),
           checkpoint.create_time());
  add_time("save_time", checkpoint.has_save_time(), checkpoint.save_time());
  add_time("look_time", checkpoint.has_look_time(), checkpoint.look_time());
  if (checkpoint.has_problem()) {
    document["problem"] = {{"reason", checkpoint.problem().reason()},
                           {"message", checkpoint.problem().message()}};
  }
  return document;
}

Json ListJson(const std::vector<v1::Checkpoint>& checkpoints) {
  Json list = Json::array();
  for (const v1::Checkpoint& checkpoint : checkpoints) list.push_back(CheckpointJson(checkpoint));
  return list;
}

std::string TablesText(const std::vector<v1::Checkpoint>& checkpoints) {
  std::vector<std::string> titles;  // in the order in which they come
  std::map<std::string, std::vector<std::vector<std::string>>> rows_of;
  for (const v1::Checkpoint& checkpoint : checkpoints) {
    const std::string title = absl::StrCat(
        checkpoint.path(), checkpoint.job().empty() ? "" : absl::StrCat(" of ", checkpoint.job()));
    auto& rows = rows_of[title];
    if (rows.empty()) {
      titles.push_back(title);
      rows.push_back({"checkpoint", "tag", "state", "size"});
    }
    rows.push_back({checkpoint.name().empty() ? "-" : checkpoint.name(),
                    EscapeControls(checkpoint.tag()),
                    absl::StrCat(StateName(checkpoint), checkpoint.pinned() ? ", pinned" : ""),
                    FormatBytes(checkpoint.num_bytes())});
  }
  std::string text;
  for (const std::string& title : titles) {
    absl::StrAppend(&text, text.empty() ? "" : "\n", EscapeControls(title), "\n",
                    FormatTable(rows_of[title]));
  }
  return text;
}

std::string ProblemsText(const std::vector<v1::Checkpoint>& checkpoints) {
  std::string text;
  for (const v1::Checkpoint& checkpoint : checkpoints) {
    if (!checkpoint.has_problem()) continue;
    absl::StrAppend(&text, EscapeControls(checkpoint.tag()), " is ", StateName(checkpoint), ": ",
                    EscapeControls(checkpoint.problem().message()), "\n");
  }
  return text;
}

}  // namespace zerocast
