#include "client/cli/progress.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/cli/output.h"
#include "client/cli/stages.h"

namespace zerocast {
namespace {

constexpr int kBarWidth = 12;
constexpr int kTerminalWidth = 79;
constexpr absl::Duration kLineEvery = absl::Seconds(3);

}  // namespace

std::string ProgressLine(const v1::Load& load, absl::Duration elapsed, int width) {
  int64_t done = 0, all = 0;
  for (const v1::NodeProgress& node : load.nodes()) {
    done += node.bytes_read();
    all += node.bytes_to_read();
    if (node.source() != v1::LOAD_SOURCE_PEERS) continue;
    done += node.bytes_received();
    // What comes is not known, but that every round brings about as much.
    all += node.round() > 0 ? node.bytes_received() * node.num_rounds() / node.round()
                            : node.arena_bytes();
  }
  std::string line = absl::StrFormat("%-10s", StateName(load.state()));
  if (all > 0 && load.state() == v1::LOAD_STATE_LOADING) {
    const double share = static_cast<double>(done) / static_cast<double>(all);
    const int filled = static_cast<int>(share * kBarWidth);
    const double rate = static_cast<double>(done) / std::max(absl::ToDoubleSeconds(elapsed), 1e-3);
    absl::StrAppend(&line, "[", std::string(filled, '#'), std::string(kBarWidth - filled, '.'),
                    "]");
    absl::StrAppendFormat(&line, " %3.0f %%  %s of %s  %s", 100 * share, FormatBytes(done),
                          FormatBytes(all), FormatRate(rate));
    if (done > 0 && done < all) {
      absl::StrAppendFormat(&line, "  %.0f s left",
                            std::ceil(static_cast<double>(all - done) / rate));
    }
    const std::string bottleneck = Bottleneck(StageSpeeds(load));
    if (!bottleneck.empty()) absl::StrAppend(&line, "  ", bottleneck);
  }
  if (static_cast<int>(line.size()) > width) line.resize(width);
  return line;
}

ProgressDisplay::ProgressDisplay(bool enabled)
    : enabled_(enabled),
      terminal_(::isatty(STDERR_FILENO) == 1),
      started_(absl::Now()),
      last_line_(started_) {}

ProgressDisplay::~ProgressDisplay() {
  if (drawn_) std::fprintf(stderr, "\r%*s\r", kTerminalWidth, "");
}

void ProgressDisplay::Show(const v1::Load& load) {
  if (!enabled_) return;
  const absl::Time now = absl::Now();
  // The rate people want is that of the reading, not of the waiting before it.
  if (load.state() != v1::LOAD_STATE_LOADING) started_ = now;
  const std::string line = ProgressLine(load, now - started_, kTerminalWidth);
  if (terminal_) {
    std::fprintf(stderr, "\r%-*s", kTerminalWidth, line.c_str());
    std::fflush(stderr);
    drawn_ = true;
  } else if (now - last_line_ >= kLineEvery) {
    std::fprintf(stderr, "%s\n", line.c_str());
    last_line_ = now;
  }
}

}  // namespace zerocast
