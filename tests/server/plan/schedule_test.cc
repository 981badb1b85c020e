// Random plans on random layouts: what the schedule says to read, send and copy puts every element
// where it belongs, and nothing is read that need not be.

#include "server/plan/schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/copy/algebra.h"
#include "kernels/copy/copy.h"
#include "kernels/copy/decode_box.h"
#include "tests/server/plan/random_plan.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::HasSubstr;

constexpr int kPlans = 250;

bool operator==(const Piece& a, const Piece& b) {
  return a.target == b.target && a.source == b.source && a.box == b.box &&
         a.target_base == b.target_base && a.rank == b.rank && a.secondary == b.secondary;
}

// Runs everything that a schedule says and keeps what came of it.
class Execution {
 public:
  Execution(const Plan& plan, const Schedule& schedule, const std::vector<std::string>& files)
      : plan_(plan), schedule_(schedule), files_(files) {
    for (int32_t rank = 0; rank < plan.layout.world_size; ++rank) {
      arenas_.emplace_back(static_cast<size_t>(plan.arena_bytes), '\0');
    }
  }

  void Execute() {
    std::vector<Piece> pieces;
    for (int64_t round = 0; round < schedule_.num_rounds(); ++round) {
      for (int32_t reader = 0; reader < plan_.layout.num_nodes; ++reader) {
        for (int32_t node = 0; node < plan_.layout.num_nodes; ++node) {
          pieces.clear();
          schedule_.Pieces(round, reader, node, &pieces);
          for (const Piece& piece : pieces) Copy(round, reader, node, piece);
        }
      }
    }
  }

  // The same by whole pieces that each rank cuts for itself.
  void ExecuteBroadcast() {
    std::vector<Piece> pieces;
    for (int64_t round = 0; round < schedule_.num_rounds(); ++round) {
      for (int32_t reader = 0; reader < plan_.layout.num_nodes; ++reader) {
        pieces.clear();
        schedule_.WholePieces(round, reader, &pieces);
        for (const Piece& piece : pieces) CutToAll(round, reader, piece);
      }
    }
  }

  const std::vector<std::string>& arenas() const { return arenas_; }
  int64_t elements_copied() const { return elements_copied_; }

 private:
  void CutToAll(int64_t round, int32_t reader, const Piece& whole) {
    ASSERT_EQ(whole.rank, -1);
    ASSERT_EQ(whole.target_base, 0);
    const Target& target = plan_.targets[whole.target];
    for (int32_t rank = 0; rank < plan_.layout.world_size; ++rank) {
      const int64_t base = target.partitioned ? rank * target.partition_elements : 0;
      std::vector<Box> boxes;
      SliceTarget(whole.box, base, base + target.partition_elements, &boxes);
      for (const Box& box : boxes) {
        Copy(round, reader, plan_.layout.node_of_rank[rank],
             {whole.target, whole.source, box, base, rank});
      }
      if (target.secondary_elements == 0) continue;
      const int64_t block = rank % SecondaryGroupSize(plan_.layout) * target.secondary_elements;
      boxes.clear();
      SliceTarget(whole.box, block, block + target.secondary_elements, &boxes);
      for (const Box& box : boxes) {
        Copy(round, reader, plan_.layout.node_of_rank[rank],
             {whole.target, whole.source, box, block, rank, true});
      }
    }
  }

  void Copy(int64_t round, int32_t reader, int32_t node, const Piece& piece) {
    ASSERT_EQ(plan_.layout.node_of_rank[piece.rank], node);
    const ManifestTensor& source = plan_.manifest->tensors[piece.source];
    const Target& target = plan_.targets[piece.target];
    ASSERT_EQ(piece.box.source, piece.source);
    const SourceDecoder* const decoder = FindDecoder(plan_.decoders, piece.source);
    const int64_t size = SizeOf(source.tensor.dtype);
    const int64_t packed = decoder == nullptr ? 1 : PackedElements(decoder->decoder.kind);
    ASSERT_TRUE(IsRead(round, reader, source.file,
                       source.file_begin + piece.box.source_offset / packed * size,
                       source.file_begin + (SourceEnd(piece.box) + packed - 1) / packed * size));
    Box box = piece.box;
    box.target_offset -= piece.target_base;
    ASSERT_GE(box.target_offset, 0);
    ASSERT_LE(TargetEnd(box),
              piece.secondary ? target.secondary_elements : target.partition_elements);
    const char* const data = files_[source.file].data() + source.file_begin;
    char* const place = arenas_[piece.rank].data() +
                        (piece.secondary ? target.secondary_offset : target.arena_offset);
    if (decoder == nullptr) {
      CopyBoxReference(box, data, source.tensor.dtype, place, target.dtype);
    } else {
      const ManifestTensor& scales = plan_.manifest->tensors[decoder->scale];
      const int64_t scale_size = SizeOf(scales.tensor.dtype);
      const ScaleRange range =
          ScalesOf(decoder->decoder, piece.box.source_offset, SourceEnd(piece.box));
      ASSERT_TRUE(IsRead(round, reader, scales.file, scales.file_begin + range.begin * scale_size,
                         scales.file_begin + range.end * scale_size));
      DecodeBoxReference(box, decoder->decoder,
                         {data, 0, files_[scales.file].data() + scales.file_begin, 0}, place,
                         target.dtype);
    }
    elements_copied_ += NumElements(box);
  }

  // One extent of the round holds these bytes.
  bool IsRead(int64_t round, int32_t reader, int32_t file, int64_t begin, int64_t end) const {
    for (const Extent& extent : schedule_.Reads(round, reader)) {
      if (extent.file == file && extent.begin <= begin && end <= extent.end) return true;
    }
    return false;
  }

  const Plan& plan_;
  const Schedule& schedule_;
  const std::vector<std::string>& files_;
  std::vector<std::string> arenas_;
  int64_t elements_copied_ = 0;
};

// The arena of `rank` as a slice of the naively assembled targets.
std::string ExpectedArena(const Plan& plan, const std::vector<std::string>& targets, int32_t rank) {
  std::string arena(static_cast<size_t>(plan.arena_bytes), '\0');
  for (size_t t = 0; t < plan.targets.size(); ++t) {
    const Target& target = plan.targets[t];
    for (const bool secondary : {false, true}) {
      if (secondary && target.secondary_elements == 0) continue;
      const std::string part = NaivePartition(plan, target, targets[t], rank, secondary);
      arena.replace(static_cast<size_t>(secondary ? target.secondary_offset : target.arena_offset),
                    part.size(), part);
    }
  }
  return arena;
}

int64_t ElementsOfAllRanks(const Plan& plan) {
  int64_t count = 0;
  for (const Target& target : plan.targets) {
    count += target.num_elements * (target.partitioned ? 1 : plan.layout.world_size);
    if (target.secondary_elements == 0) continue;
    count += target.num_elements * (plan.layout.world_size / SecondaryGroupSize(plan.layout));
  }
  return count;
}

using Bytes = std::vector<std::tuple<int32_t, int64_t, int64_t>>;  // file, begin, end

Bytes NeededBytes(const Plan& plan) {
  std::vector<bool> used(plan.manifest->tensors.size(), false);
  for (const Target& target : plan.targets) {
    for (const Box& box : target.boxes) used[box.source] = true;
  }
  Bytes bytes;
  for (size_t i = 0; i < used.size(); ++i) {
    const ManifestTensor& tensor = plan.manifest->tensors[i];
    if (used[i]) bytes.emplace_back(tensor.file, tensor.file_begin, tensor.file_end);
  }
  return bytes;
}

// Sorted and joined where they touch; an overlap is left as a range that begins before the end of
// the one before it, and so differs from any list without overlaps.
Bytes Joined(Bytes bytes) {
  std::sort(bytes.begin(), bytes.end());
  Bytes joined;
  for (const auto& [file, begin, end] : bytes) {
    if (!joined.empty() && std::get<0>(joined.back()) == file &&
        std::get<2>(joined.back()) == begin) {
      std::get<2>(joined.back()) = end;
    } else {
      joined.emplace_back(file, begin, end);
    }
  }
  return joined;
}

Bytes ReadsOfNode(const Plan& plan, const Schedule& schedule, int32_t node) {
  Bytes bytes;
  int64_t total = 0;
  for (int64_t round = 0; round < schedule.num_rounds(); ++round) {
    int64_t in_round = 0;
    int32_t last_file = -1;
    int64_t last_end = 0;
    for (const Extent& extent : schedule.Reads(round, node)) {
      EXPECT_LT(extent.begin, extent.end);
      EXPECT_TRUE(extent.file > last_file || extent.begin >= last_end) << "not sorted";
      last_file = extent.file;
      last_end = extent.end;
      in_round += extent.end - extent.begin;
      bytes.emplace_back(extent.file, extent.begin, extent.end);
    }
    EXPECT_LE(in_round, plan.layout.round_bytes);
    total += in_round;
  }
  EXPECT_EQ(total, schedule.ReadBytes(node));
  EXPECT_TRUE(schedule.Reads(schedule.num_rounds(), node).empty());
  return bytes;
}

// What of `bytes` is no scale.
Bytes WithoutScales(const Plan& plan, Bytes bytes) {
  for (const SourceDecoder& source : plan.decoders) {
    const ManifestTensor& scale = plan.manifest->tensors[source.scale];
    Bytes rest;
    for (const auto& [file, begin, end] : bytes) {
      if (file != scale.file || end <= scale.file_begin || scale.file_end <= begin) {
        rest.emplace_back(file, begin, end);
        continue;
      }
      if (begin < scale.file_begin) rest.emplace_back(file, begin, scale.file_begin);
      if (scale.file_end < end) rest.emplace_back(file, scale.file_end, end);
    }
    bytes = std::move(rest);
  }
  return bytes;
}

int64_t Sum(const Bytes& bytes) {
  int64_t sum = 0;
  for (const auto& [file, begin, end] : bytes) sum += end - begin;
  return sum;
}

// Runs `check(plan, random)` on random plans.
template <typename Check>
void ForRandomPlans(Check check) {
  const uint64_t seed = TestSeed();
  for (int i = 0; i < kPlans && !::testing::Test::HasFailure(); ++i) {
    SCOPED_TRACE("plan " + std::to_string(i) + " of ZC_SEED=" + std::to_string(seed));
    Random random(seed + static_cast<uint64_t>(i));
    const Layout layout = RandomLayout(&random);
    const Plan plan = RandomPlan(&random, layout);
    check(plan, &random);
  }
}

TEST(ScheduleTest, PiecesOfAllRoundsFillEveryArenaOnce) {
  ForRandomPlans([](const Plan& plan, Random* random) {
    ZC_ASSERT_OK_AND_ASSIGN(const Schedule schedule, Schedule::Create(plan));
    const std::vector<std::string> files = RandomFiles(random, *plan.manifest);
    const std::vector<std::string> targets = NaiveTargets(plan, files);
    Execution run(plan, schedule, files);
    run.Execute();
    EXPECT_EQ(run.elements_copied(), ElementsOfAllRanks(plan));
    for (int32_t rank = 0; rank < plan.layout.world_size; ++rank) {
      EXPECT_TRUE(run.arenas()[rank] == ExpectedArena(plan, targets, rank)) << "rank " << rank;
    }
  });
}

TEST(ScheduleTest, WholePiecesFillEveryArenaOnce) {
  ForRandomPlans([](const Plan& plan, Random* random) {
    if (plan.layout.read_mode == ReadMode::kLocal) return;
    ZC_ASSERT_OK_AND_ASSIGN(const Schedule schedule, Schedule::Create(plan));
    const std::vector<std::string> files = RandomFiles(random, *plan.manifest);
    const std::vector<std::string> targets = NaiveTargets(plan, files);
    Execution run(plan, schedule, files);
    run.ExecuteBroadcast();
    EXPECT_EQ(run.elements_copied(), ElementsOfAllRanks(plan));
    for (int32_t rank = 0; rank < plan.layout.world_size; ++rank) {
      EXPECT_TRUE(run.arenas()[rank] == ExpectedArena(plan, targets, rank)) << "rank " << rank;
    }
  });
}

TEST(ScheduleTest, EveryNeededByteIsReadOnceInEqualShares) {
  ForRandomPlans([](Plan plan, Random*) {
    plan.layout.read_mode = ReadMode::kParallel;
    ZC_ASSERT_OK_AND_ASSIGN(const Schedule schedule, Schedule::Create(plan));
    const Bytes needed = NeededBytes(plan);
    Bytes all;
    for (int32_t node = 0; node < plan.layout.num_nodes; ++node) {
      const Bytes own = WithoutScales(plan, ReadsOfNode(plan, schedule, node));
      all.insert(all.end(), own.begin(), own.end());
      EXPECT_NEAR(static_cast<double>(Sum(own)),
                  static_cast<double>(Sum(needed)) / plan.layout.num_nodes, 8.0);
    }
    EXPECT_EQ(Joined(all), Joined(needed));
  });
}

TEST(ScheduleTest, OnlyTheNodeOfRankZeroReadsInRank0Mode) {
  ForRandomPlans([](Plan plan, Random*) {
    plan.layout.read_mode = ReadMode::kRank0;
    ZC_ASSERT_OK_AND_ASSIGN(const Schedule schedule, Schedule::Create(plan));
    EXPECT_EQ(Joined(WithoutScales(plan, ReadsOfNode(plan, schedule, 0))),
              Joined(NeededBytes(plan)));
    for (int32_t node = 1; node < plan.layout.num_nodes; ++node) {
      EXPECT_EQ(schedule.ReadBytes(node), 0);
    }
  });
}

TEST(ScheduleTest, LocalNodesReadForThemselvesAndNothingTwice) {
  ForRandomPlans([](Plan plan, Random*) {
    plan.layout.read_mode = ReadMode::kLocal;
    ZC_ASSERT_OK_AND_ASSIGN(const Schedule schedule, Schedule::Create(plan));
    for (int32_t node = 0; node < plan.layout.num_nodes; ++node) {
      const Bytes own = WithoutScales(plan, ReadsOfNode(plan, schedule, node));
      EXPECT_EQ(Sum(Joined(own)), Sum(own));
      EXPECT_LE(Sum(own), Sum(NeededBytes(plan)));
      const auto& nodes = plan.layout.node_of_rank;
      if (std::count(nodes.begin(), nodes.end(), node) == 0) {
        EXPECT_EQ(Sum(own), 0);
      }
      for (int64_t round = 0; round < schedule.num_rounds(); ++round) {
        for (int32_t reader = 0; reader < plan.layout.num_nodes; ++reader) {
          std::vector<Piece> pieces;
          schedule.Pieces(round, reader, node, &pieces);
          EXPECT_TRUE(pieces.empty() || reader == node);
        }
      }
    }
  });
}

// A matrix of 4 rows, transposed, in mode local on two nodes: each owns half of every row.
Plan HalvesOfRows(int64_t row_elements) {
  const int64_t num_elements = 4 * row_elements;
  auto manifest = std::make_shared<Manifest>();
  manifest->files.push_back({"f", num_elements * 4, 0, 0});
  manifest->tensors.push_back({{"s", DType::kFloat32, {4, row_elements}}, 0, 0, num_elements * 4});
  Plan plan;
  plan.manifest = manifest;
  plan.layout.world_size = 2;
  plan.layout.num_nodes = 2;
  plan.layout.node_of_rank = {0, 1};
  plan.layout.read_mode = ReadMode::kLocal;
  Target target;
  target.name = "t";
  target.shape = {row_elements, 4};
  target.num_elements = num_elements;
  target.dtype = DType::kFloat32;
  target.partitioned = true;
  target.partition_elements = num_elements / 2;
  target.is_filled = true;
  target.boxes = {*MakeBox(0, 0, 0, {{4, row_elements, 1}, {row_elements, 1, 4}})};
  plan.targets = {target};
  plan.arena_bytes = num_elements * 2;
  return plan;
}

TEST(ScheduleTest, LocalNodesLeaveLargeGapsOut) {
  const Plan plan = HalvesOfRows(1 << 14);
  ASSERT_THAT(ProvePlan(plan), IsOk());
  ZC_ASSERT_OK_AND_ASSIGN(const Schedule schedule, Schedule::Create(plan));
  EXPECT_EQ(schedule.ReadBytes(0), 4 * (1 << 15));
  EXPECT_EQ(schedule.Reads(0, 1).size(), 4u);
}

TEST(ScheduleTest, LocalNodesReadSmallGapsAlong) {
  const Plan plan = HalvesOfRows(1 << 8);
  ASSERT_THAT(ProvePlan(plan), IsOk());
  ZC_ASSERT_OK_AND_ASSIGN(const Schedule schedule, Schedule::Create(plan));
  EXPECT_EQ(schedule.ReadBytes(0), 3 * (1 << 10) + (1 << 9));
  EXPECT_EQ(schedule.Reads(0, 1).size(), 1u);
}

// A matrix of 512 x 512 fp8 numbers in blocks of 128 x 128, its 4 x 4 scales in front of it.
Plan Fp8Matrix() {
  auto manifest = std::make_shared<Manifest>();
  manifest->files.push_back({"f", (1 << 18) + 64, 0, 0});
  manifest->tensors.push_back({{"s_scale_inv", DType::kFloat32, {4, 4}}, 0, 0, 64});
  manifest->tensors.push_back({{"s", DType::kFloat8E4M3, {512, 512}}, 0, 64, (1 << 18) + 64});
  Plan plan;
  plan.manifest = manifest;
  plan.layout.world_size = 1;
  plan.layout.num_nodes = 1;
  plan.layout.node_of_rank = {0};
  SourceDecoder source;
  source.source = 1;
  source.scale = 0;
  source.dtype = DType::kFloat32;
  source.decoder.kind = DecoderKind::kFp8Block;
  source.decoder.stored = DType::kFloat8E4M3;
  source.decoder.scale = DType::kFloat32;
  source.decoder.rows = source.decoder.cols = 512;
  source.decoder.block_rows = source.decoder.block_cols = 128;
  source.decoder.matrix_scales = 16;
  plan.decoders = {source};
  Target target;
  target.name = "t";
  target.shape = {512, 512};
  target.num_elements = target.partition_elements = 1 << 18;
  target.dtype = DType::kBFloat16;
  target.partitioned = true;
  target.is_filled = true;
  target.boxes = {WholeBox(1, 1 << 18, 0)};
  plan.targets = {target};
  plan.arena_bytes = 1 << 19;
  return plan;
}

TEST(ScheduleTest, ScalesAreReadBesideTheirElements) {
  Plan plan = Fp8Matrix();
  ASSERT_THAT(ProvePlan(plan), IsOk());
  {
    ZC_ASSERT_OK_AND_ASSIGN(const Schedule schedule, Schedule::Create(plan));
    EXPECT_EQ(schedule.ReadBytes(0), (1 << 18) + 64) << "in one round: each once";
  }
  // Rounds of one row of blocks and its scales: no scale is read twice.
  plan.layout.round_bytes = (1 << 16) + 16;
  {
    ZC_ASSERT_OK_AND_ASSIGN(const Schedule schedule, Schedule::Create(plan));
    EXPECT_EQ(schedule.num_rounds(), 4);
    EXPECT_EQ(schedule.ReadBytes(0), (1 << 18) + 64);
    ASSERT_EQ(schedule.Reads(1, 0).size(), 2u);
    EXPECT_EQ(schedule.Reads(1, 0)[0].begin, 16);
    EXPECT_EQ(schedule.Reads(1, 0)[0].end, 32);
  }
  // Any other size: those of the row of blocks that a round ends in are read again.
  plan.layout.round_bytes = 100000;
  ZC_ASSERT_OK_AND_ASSIGN(const Schedule schedule, Schedule::Create(plan));
  EXPECT_EQ(schedule.num_rounds(), 3);
  EXPECT_EQ(schedule.ReadBytes(0), (1 << 18) + 64 + 2 * 16);
}

TEST(ScheduleTest, RefusesRoundsThatDoNotHoldAnElementAndItsScale) {
  Plan plan = Fp8Matrix();
  plan.layout.round_bytes = 4;
  EXPECT_THAT(Schedule::Create(plan),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("5 bytes")));
}

TEST(ScheduleTest, DecodedElementsTravelInTheDtypeOfTheirTarget) {
  const Plan plan = Fp8Matrix();
  Piece piece;
  piece.source = 1;
  piece.box = WholeBox(1, 100, 0);
  EXPECT_EQ(WireDType(plan, piece), DType::kBFloat16);
  EXPECT_EQ(WireBytes(plan, piece), 208);  // up to a place for the next piece
}

TEST(ScheduleTest, IsTheSameEveryTime) {
  ForRandomPlans([](const Plan& plan, Random*) {
    ZC_ASSERT_OK_AND_ASSIGN(const Schedule a, Schedule::Create(plan));
    const Plan copy = plan;
    ZC_ASSERT_OK_AND_ASSIGN(const Schedule b, Schedule::Create(copy));
    ASSERT_EQ(a.num_rounds(), b.num_rounds());
    for (int64_t round = 0; round < a.num_rounds(); ++round) {
      for (int32_t node = 0; node < plan.layout.num_nodes; ++node) {
        std::vector<Piece> of_a, of_b;
        a.Pieces(round, 0, node, &of_a);
        b.Pieces(round, 0, node, &of_b);
        ASSERT_EQ(of_a.size(), of_b.size());
        for (size_t i = 0; i < of_a.size(); ++i) EXPECT_TRUE(of_a[i] == of_b[i]);
      }
    }
  });
}

TEST(ScheduleTest, RefusesRoundsSmallerThanAnElement) {
  Random random(1);
  Layout layout = RandomLayout(&random);
  layout.round_bytes = 1 << 20;
  Plan plan = RandomPlan(&random, layout);
  plan.layout.round_bytes = 0;
  EXPECT_THAT(Schedule::Create(plan),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("layout.round_bytes")));
}

TEST(ScheduleTest, APlanWithoutWeightsHasNoRounds) {
  Plan plan;
  plan.manifest = std::make_shared<Manifest>();
  plan.layout.world_size = 2;
  plan.layout.num_nodes = 2;
  plan.layout.node_of_rank = {0, 1};
  ZC_ASSERT_OK_AND_ASSIGN(const Schedule schedule, Schedule::Create(plan));
  EXPECT_EQ(schedule.num_rounds(), 0);
  EXPECT_EQ(schedule.ReadBytes(1), 0);
}

}  // namespace
}  // namespace zerocast
