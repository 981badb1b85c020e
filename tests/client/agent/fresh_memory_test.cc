#include "client/agent/fresh_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "client/agent/arena.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;

constexpr int64_t kBlock = 2 << 20;

// Of each page of an arena, whether it is there.
std::vector<bool> PagesOf(const Arena& arena) {
  const auto num_pages = static_cast<size_t>(arena.num_bytes() / ::getpagesize());
  std::vector<unsigned char> bytes(num_pages);
  EXPECT_EQ(::mincore(arena.data(), static_cast<size_t>(arena.num_bytes()), bytes.data()), 0);
  std::vector<bool> pages;
  for (const unsigned char byte : bytes) pages.push_back((byte & 1) != 0);
  return pages;
}

// `num_elements` of `source` to place `at` of `arena`, both in elements.
BoxCopy CopyOf(const void* source, DType source_dtype, const Arena& arena, DType target_dtype,
               int64_t at, int64_t num_elements) {
  BoxCopy copy;
  copy.box.num_dims = 1;
  copy.box.dims[0] = {num_elements, 1, 1};
  copy.box.target_offset = at;
  copy.source = static_cast<const char*>(source);
  copy.source_dtype = source_dtype;
  copy.target = arena.data();
  copy.target_dtype = target_dtype;
  return copy;
}

std::vector<uint8_t> Bytes(int64_t num_bytes) {
  std::vector<uint8_t> bytes(static_cast<size_t>(num_bytes));
  for (size_t k = 0; k < bytes.size(); ++k) bytes[k] = static_cast<uint8_t>(1 + k % 251);
  return bytes;
}

TEST(FreshMemory, MakesTheBlocksThatItIsAskedForAndNoOthers) {
  ZC_ASSERT_OK_AND_ASSIGN(const Arena first, Arena::Create("first", 8 * kBlock));
  ZC_ASSERT_OK_AND_ASSIGN(const Arena second, Arena::Create("second", 8 * kBlock));
  char* const data[] = {first.data(), second.data()};
  FreshMemory fresh(data, {}, 8 * kBlock);
  const auto per_block = static_cast<size_t>(kBlock / ::getpagesize());
  std::vector<bool> expected(8 * per_block);
  EXPECT_EQ(PagesOf(second), expected);
  fresh.Make(second.data() + 2 * kBlock - 1, kBlock + 2);
  std::fill_n(expected.begin() + static_cast<std::ptrdiff_t>(per_block), 3 * per_block, true);
  if (PagesOf(second) == std::vector<bool>(8 * per_block)) {
    GTEST_SKIP() << "1 skipped: this kernel has no MADV_POPULATE_WRITE";
  }
  EXPECT_EQ(PagesOf(second), expected);
  EXPECT_EQ(PagesOf(first), std::vector<bool>(8 * per_block));
  EXPECT_EQ(std::string(second.data(), 8 * kBlock), std::string(8 * kBlock, '\0'));
}

TEST(FreshMemory, WritesWhatKeepsItsBytesWithoutMakingTheBlock) {
  if (SharedMemoryGetsHugePages()) GTEST_SKIP() << "1 skipped: shared memory gets huge pages here";
  ZC_ASSERT_OK_AND_ASSIGN(const Arena arena, Arena::Create("test", 3 * kBlock));
  char* const data = arena.data();
  const int fd = arena.fd();
  FreshMemory fresh(absl::MakeConstSpan(&data, 1), absl::MakeConstSpan(&fd, 1), 3 * kBlock);
  const std::vector<uint8_t> bytes = Bytes(10000);
  const int64_t at = 2 * kBlock - 5000;
  EXPECT_TRUE(fresh.PrefersRun(data + at, 10000));
  ZC_ASSERT_OK_AND_ASSIGN(
      const int64_t written,
      fresh.Run(CopyOf(bytes.data(), DType::kUInt8, arena, DType::kUInt8, at, 10000)));
  EXPECT_EQ(written, 10000);
  const std::vector<bool> pages = PagesOf(arena);
  EXPECT_EQ(std::count(pages.begin(), pages.end(), true), 4);
  EXPECT_EQ(std::memcmp(data + at, bytes.data(), bytes.size()), 0);
  EXPECT_EQ(data[at - 1], 0);
  EXPECT_EQ(data[at + 10000], 0);
}

TEST(FreshMemory, CopiesThroughTheMappingWhereTheBlockIsMade) {
  ZC_ASSERT_OK_AND_ASSIGN(const Arena arena, Arena::Create("test", 2 * kBlock));
  char* const data = arena.data();
  const int cannot_be_written = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  FreshMemory fresh(absl::MakeConstSpan(&data, 1), absl::MakeConstSpan(&cannot_be_written, 1),
                    2 * kBlock);
  fresh.Make(data, kBlock);
  EXPECT_FALSE(fresh.PrefersRun(data, kBlock));
  const std::vector<uint8_t> bytes = Bytes(kBlock);
  EXPECT_THAT(fresh.Run(CopyOf(bytes.data(), DType::kUInt8, arena, DType::kUInt8, 0, kBlock)),
              IsOk());
  EXPECT_EQ(std::memcmp(data, bytes.data(), kBlock), 0);
  ::close(cannot_be_written);
}

// Expects the bytes that RunBoxCopy gives, and no more pages than they need.
void ExpectConverted(BoxCopy copy, const Arena& arena) {
  char* const data = arena.data();
  const int fd = arena.fd();
  FreshMemory fresh(absl::MakeConstSpan(&data, 1), absl::MakeConstSpan(&fd, 1), arena.num_bytes());
  ZC_ASSERT_OK_AND_ASSIGN(const int64_t written, fresh.Run(copy));
  const std::vector<bool> pages = PagesOf(arena);
  std::string expected(static_cast<size_t>(arena.num_bytes()), '\0');
  copy.target = expected.data();
  EXPECT_EQ(written, RunBoxCopy(copy));
  EXPECT_TRUE(std::memcmp(data, expected.data(), expected.size()) == 0);
  if (SharedMemoryGetsHugePages()) return;
  EXPECT_LE(std::count(pages.begin(), pages.end(), true), written / ::getpagesize() + 2);
}

TEST(FreshMemory, CastsAreWrittenPieceByPiece) {
  for (const int64_t count : {1, 3, 16384, 40001}) {
    std::vector<float> values(static_cast<size_t>(count));
    for (size_t k = 0; k < values.size(); ++k) values[k] = 0.37F * static_cast<float>(k) - 5;
    for (const DType to : {DType::kBFloat16, DType::kFloat64}) {
      ZC_ASSERT_OK_AND_ASSIGN(const Arena arena, Arena::Create("test", kBlock));
      ExpectConverted(CopyOf(values.data(), DType::kFloat32, arena, to, 77, count), arena);
    }
  }
}

TEST(FreshMemory, DecodedElementsAreWrittenPieceByPiece) {
  Decoder decoder;
  decoder.kind = DecoderKind::kFp4Block;
  decoder.stored = decoder.scale = DType::kUInt8;
  decoder.rows = 64;
  decoder.cols = 1024;
  decoder.block_cols = 32;
  const std::vector<uint8_t> stored = Bytes(32768);
  std::vector<uint8_t> scales = Bytes(2048);
  for (uint8_t& scale : scales) scale = static_cast<uint8_t>(120 + scale % 16);
  ZC_ASSERT_OK_AND_ASSIGN(const Arena arena, Arena::Create("test", kBlock));
  BoxCopy copy = CopyOf(nullptr, DType::kUInt8, arena, DType::kBFloat16, 5, 40001);
  copy.box.source_offset = 777;  // of all elements
  copy.decoder = &decoder;
  copy.encoded.stored = reinterpret_cast<const char*>(stored.data());
  copy.encoded.scales = reinterpret_cast<const char*>(scales.data());
  ExpectConverted(copy, arena);
}

TEST(FreshMemory, WhatChangesItsOrderGoesThroughTheMapping) {
  ZC_ASSERT_OK_AND_ASSIGN(const Arena arena, Arena::Create("test", kBlock));
  char* const data = arena.data();
  const int cannot_be_written = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  FreshMemory fresh(absl::MakeConstSpan(&data, 1), absl::MakeConstSpan(&cannot_be_written, 1),
                    kBlock);
  const std::vector<uint8_t> bytes = Bytes(6);
  BoxCopy copy = CopyOf(bytes.data(), DType::kUInt8, arena, DType::kUInt8, 9, 3);
  copy.box.num_dims = 2;  // 2 x 3, transposed
  copy.box.dims[0] = {3, 1, 2};
  copy.box.dims[1] = {2, 3, 1};
  EXPECT_THAT(fresh.Run(copy), IsOk());
  EXPECT_EQ(std::string(data + 9, 6), std::string("\1\4\2\5\3\6"));
  ::close(cannot_be_written);
}

// More threads than may write to an arena at a time: some of them copy.
TEST(FreshMemory, FillsAnArenaFromManyThreads) {
  constexpr int64_t kThreads = 8, kPiece = 70001, kPieces = 40;
  constexpr int64_t kTotal = kThreads * kPiece * kPieces;
  ZC_ASSERT_OK_AND_ASSIGN(const Arena arena, Arena::Create("test", kTotal));
  char* const data = arena.data();
  const int fd = arena.fd();
  FreshMemory fresh(absl::MakeConstSpan(&data, 1), absl::MakeConstSpan(&fd, 1), kTotal);
  const std::vector<uint8_t> bytes = Bytes(kTotal);
  std::vector<absl::Status> statuses(kThreads);
  std::vector<std::thread> threads;
  for (int64_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int64_t piece = t; piece < kThreads * kPieces; piece += kThreads) {
        const absl::Status status = fresh
                                        .Run(CopyOf(bytes.data() + piece * kPiece, DType::kUInt8,
                                                    arena, DType::kUInt8, piece * kPiece, kPiece))
                                        .status();
        if (!status.ok()) statuses[static_cast<size_t>(t)] = status;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(statuses, Each(IsOk()));
  EXPECT_EQ(std::memcmp(data, bytes.data(), bytes.size()), 0);
}

TEST(FreshMemory, TellsWhereItCannotWrite) {
  if (SharedMemoryGetsHugePages()) GTEST_SKIP() << "1 skipped: shared memory gets huge pages here";
  ZC_ASSERT_OK_AND_ASSIGN(const Arena arena, Arena::Create("test", kBlock));
  char* const data = arena.data();
  const int full = ::open("/dev/full", O_WRONLY | O_CLOEXEC);
  FreshMemory fresh(absl::MakeConstSpan(&data, 1), absl::MakeConstSpan(&full, 1), kBlock);
  const std::vector<uint8_t> bytes = Bytes(100);
  EXPECT_THAT(
      fresh.Run(CopyOf(bytes.data(), DType::kUInt8, arena, DType::kUInt8, 50, 100)),
      StatusIs(absl::StatusCode::kResourceExhausted,
               AllOf(HasSubstr("write 100 bytes to shared memory, into arena 0 of this node at 50"),
                     HasSubstr("No space left on device"))));
  ::close(full);
}

TEST(FreshMemory, KnowsWhereMappingsGetHugePages) {
  const std::string never = "always within_size advise [never] deny force\n";
  const std::string advise = "always within_size [advise] never deny force\n";
  const std::string inherit = "always [inherit] within_size advise never\n";
  EXPECT_FALSE(MappingsGetHugePages("", ""));  // a kernel without them
  EXPECT_FALSE(MappingsGetHugePages("", never));
  EXPECT_TRUE(MappingsGetHugePages("", advise));
  EXPECT_TRUE(MappingsGetHugePages("", "[always] within_size advise never deny force\n"));
  EXPECT_FALSE(MappingsGetHugePages("", "always within_size advise never [deny] force\n"));
  EXPECT_TRUE(MappingsGetHugePages(inherit, advise));
  EXPECT_FALSE(MappingsGetHugePages(inherit, never));
  EXPECT_FALSE(MappingsGetHugePages("always inherit within_size advise [never]\n", advise));
  EXPECT_TRUE(MappingsGetHugePages("always inherit within_size [advise] never\n", never));
}

}  // namespace
}  // namespace zerocast
