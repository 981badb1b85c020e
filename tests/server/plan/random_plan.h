#ifndef ZEROCAST_TESTS_SERVER_PLAN_RANDOM_PLAN_H_
#define ZEROCAST_TESTS_SERVER_PLAN_RANDOM_PLAN_H_

// Random plans that are valid by construction: targets made of whole, transposed, stacked, joined,
// interleaved and cut sources, plain and quantised, which lie in random order, with gaps, in
// several files.

#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "server/plan/plan.h"

namespace zerocast {

// The seed of this run: ZC_SEED, or a new one; printed, so that ZC_SEED can repeat the run.
uint64_t TestSeed();

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  // In [low, high].
  int64_t Between(int64_t low, int64_t high);
  bool OneIn(int64_t n) { return Between(1, n) == 1; }
  template <typename T>
  void Shuffle(std::vector<T>* items) {
    for (size_t i = items->size(); i > 1; --i) {
      std::swap((*items)[i - 1], (*items)[static_cast<size_t>(Between(0, int64_t(i) - 1))]);
    }
  }

 private:
  std::mt19937_64 engine_;
};

// Ranks spread over nodes, of which some may have none.
Layout RandomLayout(Random* random);

// Proven and with its digest; aborts where the code under test refuses it.  Every source that some
// box reads is read whole.
Plan RandomPlan(Random* random, const Layout& layout);

// What each target must hold, assembled element by element from the files' bytes (by file).
std::vector<std::string> NaiveTargets(const Plan& plan, const std::vector<std::string>& files);

// What `rank` holds of a target whose whole bytes are `whole`: element by element of its primary or
// secondary partition, zero beyond the target.
std::string NaivePartition(const Plan& plan, const Target& target, const std::string& whole,
                           int32_t rank, bool secondary);

// Random contents of the plan's files.
std::vector<std::string> RandomFiles(Random* random, const Manifest& manifest);

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_SERVER_PLAN_RANDOM_PLAN_H_
