// Folders that real engines saved, with random damage: whatever is read of them, what holds for
// every folder holds.  ZC_SEED repeats a run, ZC_ROUNDS makes it longer.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/formats/crc32.h"
#include "client/formats/little_endian.h"
#include "client/formats/zip_archive.h"
#include "tests/fuzz/deepspeed_folder.h"

namespace zerocast {
namespace {

namespace fs = std::filesystem;

constexpr int kRounds = 250;
// The small ones.
constexpr const char* kFolders[] = {
    "c2", "keep_c1", "tiny-z1-w2-fp16", "tiny-z1-w2-fp16-to-w3", "tiny-z2-w4", "tiny-z2-w4-uni"};

uint64_t NumberFrom(const char* variable, uint64_t other) {
  const char* text = std::getenv(variable);
  return text == nullptr ? other : std::strtoull(text, nullptr, 10);
}

std::string ReadBytes(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
}

void WriteBytes(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::vector<fs::path> FilesBelow(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

// `bytes` with its pickle changed, and the CRC that says so; as it was where it is no zip.
std::string WithChangedPickle(const fs::path& path, std::string bytes,
                              const std::function<void(char*, size_t)>& change) {
  const auto file = InputFile::Open(path);
  if (!file.ok()) return bytes;
  const auto archive = ZipArchive::Read(*file);
  if (!archive.ok()) return bytes;
  for (const ZipEntry& entry : archive->entries()) {
    if (!absl::EndsWith(entry.name, "/data.pkl") || entry.num_bytes == 0) continue;
    const auto begin = static_cast<size_t>(entry.data_begin);
    const auto num_bytes = static_cast<size_t>(entry.num_bytes);
    change(&bytes[begin], num_bytes);
    std::string old_crc, new_crc;
    PutLittleEndian(entry.crc32, 4, &old_crc);
    PutLittleEndian(Crc32(absl::string_view(bytes).substr(begin, num_bytes)), 4, &new_crc);
    for (size_t at = bytes.find(old_crc, begin + num_bytes); at != std::string::npos;
         at = bytes.find(old_crc, at + 4)) {
      bytes.replace(at, 4, new_crc);
    }
  }
  return bytes;
}

class Damage {
 public:
  explicit Damage(std::mt19937_64* random) : random_(*random) {}

  // Does one thing to a file below `folder`; says what.
  std::string Do(const fs::path& folder, const fs::path& recorded) {
    const fs::path path = OneOf(FilesBelow(folder));
    if (path.empty()) return "nothing is left";
    const std::string name = path.lexically_relative(folder).string();
    std::string bytes = ReadBytes(path);
    switch (Below(8)) {
      case 0:
        for (uint64_t k = 1 + Below(8); k > 0 && !bytes.empty(); --k) {
          bytes[Below(bytes.size())] = Byte();
        }
        WriteBytes(path, bytes);
        return "changed " + name;
      case 1:
        WriteBytes(path, bytes.substr(0, Below(bytes.size() + 1)));
        return "cut " + name;
      case 2:
        fs::remove(path);
        return "removed " + name;
      case 3: {
        const fs::path other = OneOf(FilesBelow(recorded / kFolders[Below(std::size(kFolders))]));
        WriteBytes(path, ReadBytes(other));
        return absl::StrCat("took ", other.string(), " for ", name);
      }
      case 4: {
        const std::string other =
            absl::StrCat(Below(2) == 0 ? "bf16_" : "", "zero_pp_rank_", Below(5), "_mp_rank_00_",
                         Below(2) == 0 ? "model" : "optim", "_states.pt");
        WriteBytes(path.parent_path() / other, bytes);
        return absl::StrCat("copied ", name, " as ", other);
      }
      case 5:
        fs::remove(path);
        fs::create_directory(path);
        return "made a folder of " + name;
      default:
        WriteBytes(path, WithChangedPickle(path, bytes, [this](char* pickle, size_t num_bytes) {
                     for (uint64_t k = 1 + Below(3); k > 0; --k) {
                       char& byte = pickle[Below(num_bytes)];
                       byte = Below(2) == 0 ? Byte() : static_cast<char>(byte ^ (1 << Below(8)));
                     }
                   }));
        return "changed the pickle of " + name;
    }
  }

 private:
  uint64_t Below(uint64_t most) { return random_() % most; }
  char Byte() { return static_cast<char>(random_()); }
  fs::path OneOf(const std::vector<fs::path>& files) {
    return files.empty() ? fs::path() : files[Below(files.size())];
  }

  std::mt19937_64& random_;
};

TEST(DeepSpeedMutation, WhatHoldsForEveryFolderHoldsForDamagedOnes) {
  const uint64_t seed = NumberFrom("ZC_SEED", std::random_device()());
  const auto rounds = static_cast<int>(NumberFrom("ZC_ROUNDS", kRounds));
  std::cout << "ZC_SEED=" << seed << "\n";
  std::mt19937_64 random(seed);
  Damage damage(&random);
  const fs::path recorded = std::getenv("ZC_DEEPSPEED_FOLDERS");
  int num_checkpoints = 0, num_written = 0;
  for (int round = 0; round < rounds; ++round) {
    const Scratch scratch;
    const fs::path folder = fs::path(scratch.path()) / "run",
                   out = fs::path(scratch.path()) / "out";
    const std::string name = kFolders[random() % std::size(kFolders)];
    fs::copy(recorded / name, folder, fs::copy_options::recursive);
    fs::create_directory(out);
    std::string done = absl::StrCat("round ", round, ", ", name);
    for (uint64_t k = random() % 3 + (round % 10 == 0 ? 0 : 1); k > 0; --k) {
      absl::StrAppend(&done, "; ", damage.Do(folder, recorded));
    }
    std::cout << done << std::endl;  // what was done last is what ended the process
    const FolderReading reading = CheckDeepSpeedFolder(folder, out);
    num_checkpoints += reading.is_checkpoint ? 1 : 0;
    num_written += reading.num_written;
  }
  EXPECT_GT(num_checkpoints, rounds / 20);
  EXPECT_LT(num_checkpoints, rounds);
  EXPECT_GT(num_written, num_checkpoints);
}

}  // namespace
}  // namespace zerocast
