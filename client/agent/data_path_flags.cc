#include "client/agent/data_path_flags.h"

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "client/agent/rate_limit.h"
#include "kernels/base/status_macros.h"
#include "server/base/byte_size.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

// A rate that is given; nothing may be read or sent at none at all.
int64_t RateOfFlag(const char* flag, const std::string& text,
                   std::vector<FieldViolation>* violations) {
  const int64_t rate = ByteSizeOfFlag(flag, text, 0, violations);
  if (rate > 0 && rate < kLeastRate) {
    violations->push_back({flag, absl::StrCat("\"", text, "\" is less than ", kLeastRate,
                                              " bytes a second, the least; give 1M or more, or "
                                              "leave it out for no limit")});
  }
  return rate;
}

}  // namespace

void DataPathFlags::AddTo(CLI::App* command, const std::string& group) {
  flags_ = {
      command
          ->add_option("--threads", threads_,
                       "Threads that read and copy for one load of a node; 0: one a processor,\n"
                       "at most 16")
          ->check(CLI::Range(0, kMostAgentThreads))
          ->type_name("N")
          ->capture_default_str(),
      command
          ->add_option("--io", io_,
                       "How files are read: cached (through the page cache), direct (past it), or\n"
                       "auto: what is cached from there, the rest by the way that proves faster")
          ->check(CLI::IsMember({"auto", "cached", "direct"}))
          ->type_name("HOW")
          ->capture_default_str(),
      command
          ->add_option("--read-rate", read_rate_,
                       "Bytes a second that all loads of a node together may read (2G, ...);\n"
                       "unset: no limit")
          ->type_name("SIZE"),
      command
          ->add_option("--send-rate", send_rate_,
                       "Bytes a second that all loads of a node together may send; unset: no\n"
                       "limit")
          ->type_name("SIZE"),
  };
  if (group.empty()) return;
  for (const char* name : {"--threads", "--io", "--read-rate", "--send-rate"}) {
    command->get_option(name)->group(group);
  }
}

std::vector<std::string> DataPathFlags::Given() const {
  std::vector<std::string> given;
  for (const CLI::Option* flag : flags_) {
    if (flag->count() > 0) given.push_back(flag->get_name());
  }
  return given;
}

absl::Status DataPathFlags::Apply(AgentOptions* options) const {
  options->num_threads = threads_;
  options->io = io_ == "cached"   ? IoMode::kCached
                : io_ == "direct" ? IoMode::kDirect
                                  : IoMode::kAuto;
  std::vector<FieldViolation> violations;
  options->read_rate = RateOfFlag("--read-rate", read_rate_, &violations);
  options->send_rate = RateOfFlag("--send-rate", send_rate_, &violations);
  return InvalidFields(violations);
}

}  // namespace zerocast
