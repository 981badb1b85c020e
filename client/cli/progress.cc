#include "client/cli/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/cli/output.h"
#include "client/cli/stages.h"

namespace zerocast {
namespace {

constexpr int kBarWidth = 12;
constexpr int kUsualWidth = 80;
constexpr absl::Duration kLineEvery = absl::Seconds(3);
constexpr absl::Duration kDrawEvery = absl::Milliseconds(100);
constexpr absl::Duration kRateWindow = absl::Seconds(10);

// One that can move its cursor up.
bool IsTerminal() {
  const char* const kind = std::getenv("TERM");
  return ::isatty(STDERR_FILENO) == 1 && kind != nullptr && std::string(kind) != "dumb";
}

// Columns that a line may have without being wrapped.
int LineWidth() {
  struct winsize size = {};
  const bool known = ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1;
  return (known ? size.ws_col : kUsualWidth) - 1;
}

// "[####........]  42 %  0.83 GB of 1.98 GB  1.21 GB/s  1 s left"
std::string BytesText(const LoadBytes& bytes, double rate) {
  const double share =
      std::min(1.0, static_cast<double>(bytes.done) / static_cast<double>(bytes.all));
  const int filled = static_cast<int>(share * kBarWidth);
  std::string text =
      absl::StrCat("[", std::string(filled, '#'), std::string(kBarWidth - filled, '.'), "]");
  absl::StrAppendFormat(&text, " %3.0f %%  %s of %s", 100 * share, FormatBytes(bytes.done),
                        FormatBytes(bytes.all));
  if (rate > 0) {
    absl::StrAppend(&text, "  ", FormatRate(rate));
    if (bytes.done < bytes.all) {
      absl::StrAppendFormat(&text, "  %.0f s left",
                            std::ceil(static_cast<double>(bytes.all - bytes.done) / rate));
    }
  }
  return text;
}

}  // namespace

LoadBytes BytesOf(const v1::Load& load) {
  LoadBytes bytes;
  for (const v1::NodeProgress& node : load.nodes()) {
    bytes.done += node.bytes_read();
    bytes.all += node.bytes_to_read();
    if (node.source() != v1::LOAD_SOURCE_PEERS) continue;
    bytes.done += node.bytes_received();
    // What comes is not known, but that every round brings about as much.
    bytes.all += node.round() > 0 ? node.bytes_received() * node.num_rounds() / node.round()
                                  : node.arena_bytes();
  }
  return bytes;
}

void RateMeter::Add(absl::Time now, int64_t value) {
  looks_.push_back({now, value});
  // The oldest look that is kept is as old as the window, or a little older.
  while (looks_.size() > 2 && now - looks_[1].time >= kRateWindow) looks_.pop_front();
}

double RateMeter::PerSecond() const {
  if (looks_.size() < 2) return 0;
  const Look &first = looks_.front(), &last = looks_.back();
  const double seconds = absl::ToDoubleSeconds(last.time - first.time);
  return seconds > 0 ? static_cast<double>(last.value - first.value) / seconds : 0;
}

std::string ProgressLine(const v1::Load& load, double rate) {
  const LoadBytes bytes = BytesOf(load);
  std::string line = absl::StrFormat("%-10s", StateName(load.state()));
  if (bytes.all > 0 && load.state() == v1::LOAD_STATE_LOADING) {
    absl::StrAppend(&line, BytesText(bytes, rate));
  }
  return std::string(absl::StripTrailingAsciiWhitespace(line));
}

ProgressDisplay::ProgressDisplay(bool enabled)
    : enabled_(enabled), terminal_(IsTerminal()), last_line_(absl::Now()) {}

ProgressDisplay::~ProgressDisplay() {
  if (!drawn_) return;
  Draw("", "");
  std::fprintf(stderr, "\r");
}

void ProgressDisplay::Show(const v1::Load& load) {
  if (!enabled_) return;
  const absl::Time now = absl::Now();
  std::string stages;
  if (load.state() == v1::LOAD_STATE_LOADING) {
    meter_.Add(now, BytesOf(load).done);
    stages = StagesText(load);
  } else {
    // Another attempt begins at nothing.
    meter_.Reset();
  }
  const std::string line = ProgressLine(load, meter_.PerSecond());
  if (terminal_) {
    Draw(line, stages);
  } else if (now - last_line_ >= kLineEvery) {
    std::fprintf(stderr, "%s%s%s\n", line.c_str(), stages.empty() ? "" : "; ", stages.c_str());
    last_line_ = now;
  }
}

// The cursor comes back to the first of the two lines.
void ProgressDisplay::Draw(const std::string& first, const std::string& second) {
  const int width = LineWidth();
  std::fprintf(stderr, "\r%-*.*s\n%-*.*s\033[A\r", width, width, first.c_str(), width, width,
               second.c_str());
  std::fflush(stderr);
  drawn_ = true;
}

CopyProgress::CopyProgress(std::string what, int64_t all_bytes, bool enabled)
    : what_(std::move(what)),
      all_bytes_(all_bytes),
      enabled_(enabled && all_bytes > 0),
      terminal_(IsTerminal()),
      last_(absl::Now()) {
  next_ns_ = absl::ToUnixNanos(last_ + (terminal_ ? kDrawEvery : kLineEvery));
  const MutexLock lock(&mutex_);
  meter_.Add(last_, 0);
}

CopyProgress::~CopyProgress() {
  const MutexLock lock(&mutex_);
  if (drawn_) std::fprintf(stderr, "\r%*s\r", LineWidth(), "");
}

void CopyProgress::Add(int64_t num_bytes) {
  const int64_t done = done_.fetch_add(num_bytes) + num_bytes;
  if (!enabled_) return;
  const absl::Time now = absl::Now();
  int64_t next = next_ns_.load();
  if (absl::ToUnixNanos(now) < next) return;
  // The thread that moves the time shows it.
  const absl::Duration every = terminal_ ? kDrawEvery : kLineEvery;
  if (!next_ns_.compare_exchange_strong(next, absl::ToUnixNanos(now + every))) return;
  const MutexLock lock(&mutex_);
  if (now < last_) return;
  last_ = now;
  meter_.Add(now, done);
  const std::string line =
      absl::StrCat(what_, " ", BytesText({done, all_bytes_}, meter_.PerSecond()));
  if (terminal_) {
    const int width = LineWidth();
    std::fprintf(stderr, "\r%-*.*s", width, width, line.c_str());
    std::fflush(stderr);
    drawn_ = true;
  } else {
    std::fprintf(stderr, "%s\n", line.c_str());
  }
}

}  // namespace zerocast
