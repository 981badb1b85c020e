#include "client/formats/checkpoint.h"

#include <sys/stat.h>

#include <filesystem>
#include <string>

#include "client/formats/safetensors_writer.h"
#include "server/base/errors.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

void WriteFile(const TempDir& dir, const std::string& name,
               const std::vector<std::string>& tensors) {
  std::vector<TensorToWrite> list;
  for (const std::string& tensor : tensors) list.push_back({tensor, DType::kUInt8, {4}, "data"});
  ASSERT_THAT(WriteSafetensors(dir.File(name), list, {}), IsOk());
}

TEST(ReadCheckpointManifest, ReadsOneFile) {
  const TempDir dir;
  WriteFile(dir, "model.safetensors", {"a", "b"});
  dir.Write("config.json", "{\"model_type\": \"bert\"}");
  ZC_ASSERT_OK_AND_ASSIGN(const Manifest manifest, ReadCheckpointManifest(dir.path()));
  ASSERT_EQ(manifest.tensors.size(), 2);
  EXPECT_EQ(manifest.files[0].path, "model.safetensors");
  EXPECT_EQ(manifest.tensors[1].file_end - manifest.tensors[1].file_begin, 4);
  EXPECT_EQ(manifest.config_json, "{\"model_type\": \"bert\"}");
}

TEST(ReadCheckpointManifest, ReadsEveryTensorOfTheFilesThatTheIndexNames) {
  const TempDir dir;
  WriteFile(dir, "m-2.safetensors", {"c"});
  WriteFile(dir, "m-1.safetensors", {"a", "not_in_index"});
  dir.Write(
      "model.safetensors.index.json",
      R"({"metadata":{"total_size":12},"weight_map":{"c":"m-2.safetensors","a":"m-1.safetensors"}})");
  ZC_ASSERT_OK_AND_ASSIGN(const Manifest manifest, ReadCheckpointManifest(dir.path()));
  ASSERT_EQ(manifest.tensors.size(), 3);
  EXPECT_EQ(manifest.files[0].path, "m-1.safetensors");
  EXPECT_EQ(manifest.tensors[2].tensor.name, "c");
  EXPECT_EQ(manifest.tensors[2].file, 1);
}

TEST(ReadCheckpointManifest, ReadsTheFilesOfAVariantAlone) {
  const TempDir dir;
  WriteFile(dir, "model.safetensors", {"plain"});
  WriteFile(dir, "model.fp16-00001-of-00001.safetensors", {"sharded"});
  dir.Write("model.safetensors.index.fp16.json",
            R"({"weight_map":{"sharded":"model.fp16-00001-of-00001.safetensors"}})");
  ZC_ASSERT_OK_AND_ASSIGN(const Manifest sharded, ReadCheckpointManifest(dir.path(), {}, "fp16"));
  EXPECT_EQ(sharded.tensors[0].tensor.name, "sharded");
  EXPECT_EQ(sharded.variant, "fp16");
  WriteFile(dir, "model.fp16.safetensors", {"single"});
  ZC_ASSERT_OK_AND_ASSIGN(const Manifest single, ReadCheckpointManifest(dir.path(), {}, "fp16"));
  EXPECT_EQ(single.files[0].path, "model.fp16.safetensors");
  ZC_ASSERT_OK_AND_ASSIGN(const Manifest plain, ReadCheckpointManifest(dir.path()));
  EXPECT_EQ(plain.files[0].path, "model.safetensors");
  EXPECT_EQ(plain.variant, "");
  EXPECT_THAT(
      ReadCheckpointManifest(dir.path(), {}, "8bit"),
      StatusIs(absl::StatusCode::kNotFound, HasSubstr("neither model.8bit.safetensors nor "
                                                      "model.safetensors.index.8bit.json")));
}

TEST(ReadCheckpointManifest, RefusesAVariantThatLeavesTheFolder) {
  const TempDir dir;
  for (const std::string& variant :
       {std::string("/../x"), std::string("a\0b", 3), std::string(65, 'a')}) {
    EXPECT_THAT(ReadCheckpointManifest(dir.path(), {}, variant),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("is not a variant's name")));
  }
}

TEST(ReadCheckpointManifest, NamesTheMissingFolderAndFiles) {
  const TempDir dir;
  EXPECT_THAT(ReadCheckpointManifest(dir.File("none")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("none")));
  EXPECT_THAT(ReadCheckpointManifest(dir.path()),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("neither model.safetensors nor")));
  const std::string file = dir.Write("x", "");
  EXPECT_THAT(ReadCheckpointManifest(file),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not a folder")));
}

TEST(ReadCheckpointManifest, RefusesACheckpointWithoutATensor) {
  const TempDir dir;
  WriteFile(dir, "model.safetensors", {});
  EXPECT_THAT(
      ReadCheckpointManifest(dir.path()),
      StatusIs(absl::StatusCode::kDataLoss, HasSubstr("model.safetensors: it holds no tensor")));
}

TEST(ReadCheckpointManifest, NamesAConfigThatIsNoJsonObject) {
  const TempDir dir;
  WriteFile(dir, "model.safetensors", {"a"});
  for (const std::string& text : {std::string("{"), std::string(), std::string("{} {}"),
                                  "{\"a\":" + std::string(200000, '[')}) {
    const std::string path = dir.Write("config.json", text);
    const auto manifest = ReadCheckpointManifest(dir.path());
    EXPECT_THAT(manifest, StatusIs(absl::StatusCode::kDataLoss,
                                   HasSubstr("read " + path + ": it is not valid JSON")))
        << text.substr(0, 60);
    EXPECT_EQ(ReasonOf(manifest.status()), "CHECKPOINT_CORRUPT");
  }
  dir.Write("config.json", R"({"time_step_limit": [0.0, Infinity]})");
  EXPECT_THAT(ReadCheckpointManifest(dir.path()), IsOk());
  dir.Write("config.json", "[1]");
  EXPECT_THAT(ReadCheckpointManifest(dir.path()),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("it is not a JSON object")));
  for (const char* text : {" \n{}", "\xEF\xBB\xBF{\"a\": [1, {}]}"}) {
    dir.Write("config.json", text);
    EXPECT_THAT(ReadCheckpointManifest(dir.path()), IsOk());
  }
}

TEST(ReadCheckpointManifest, TellsADanglingLinkFromAMissingFile) {
  const TempDir dir;
  const auto link = [&dir](const std::string& name) {
    std::filesystem::create_symlink("../blobs/gone\x1b", dir.File(name));
  };
  const auto dangling = [&dir](const std::string& name) {
    return StatusIs(absl::StatusCode::kNotFound,
                    HasSubstr("open " + dir.File(name) +
                              ": it is a dangling link: ../blobs/gone\\x1b does not exist"));
  };
  link("model.safetensors");
  EXPECT_THAT(ReadCheckpointManifest(dir.path()), dangling("model.safetensors"));
  std::filesystem::remove(dir.File("model.safetensors"));
  link("model.safetensors.index.json");
  EXPECT_THAT(ReadCheckpointManifest(dir.path()), dangling("model.safetensors.index.json"));
  std::filesystem::remove(dir.File("model.safetensors.index.json"));
  dir.Write("model.safetensors.index.json", R"({"weight_map":{"a":"m-1.safetensors"}})");
  link("m-1.safetensors");
  EXPECT_THAT(ReadCheckpointManifest(dir.path()), dangling("m-1.safetensors"));
  std::filesystem::remove(dir.File("m-1.safetensors"));
  WriteFile(dir, "m-1.safetensors", {"a"});
  link("config.json");
  EXPECT_THAT(ReadCheckpointManifest(dir.path()), dangling("config.json"));
}

TEST(ReadCheckpointManifest, NamesAMissingShardAndItsTensors) {
  const TempDir dir;
  dir.Write("model.safetensors.index.json",
            R"({"weight_map":{"a":"m-1.safetensors","b":"m-1.safetensors"}})");
  EXPECT_THAT(ReadCheckpointManifest(dir.path()),
              StatusIs(absl::StatusCode::kNotFound,
                       AllOf(HasSubstr("2 tensors in m-1.safetensors"), HasSubstr("missing"))));
}

TEST(ReadCheckpointManifest, NamesATensorThatItsFileLacks) {
  const TempDir dir;
  WriteFile(dir, "m-1.safetensors", {"a"});
  dir.Write("model.safetensors.index.json",
            R"({"weight_map":{"a":"m-1.safetensors","b":"m-1.safetensors"}})");
  const auto manifest = ReadCheckpointManifest(dir.path());
  EXPECT_THAT(manifest, StatusIs(absl::StatusCode::kDataLoss,
                                 AllOf(HasSubstr("tensor b"), HasSubstr("m-1.safetensors"))));
  EXPECT_EQ(ReasonOf(manifest.status()), "CHECKPOINT_CORRUPT");
}

TEST(ReadCheckpointManifest, RefusesAnIndexThatPointsOutside) {
  for (const char* file :
       {"../x.safetensors", "/etc/passwd", "", "..", "a/b.safetensors", "x.bin"}) {
    const TempDir dir;
    dir.Write("model.safetensors.index.json",
              std::string(R"({"weight_map":{"a":")") + file + R"("}})");
    EXPECT_THAT(ReadCheckpointManifest(dir.path()),
                StatusIs(absl::StatusCode::kDataLoss,
                         HasSubstr("not the name of a .safetensors file beside")));
  }
}

TEST(ReadCheckpointManifest, RefusesABrokenIndex) {
  for (const std::string& text :
       {std::string("{"), std::string("[]"), std::string(R"({"weight_map":{}})"),
        std::string(R"({"weight_map":{"a":1}})"), std::string(R"({"weight_map":[["a"]]})"),
        std::string(R"({"weight_map":{"a":"x","a":"y"}})"),
        "{\"metadata\":" + std::string(200000, '[')}) {
    const TempDir dir;
    dir.Write("model.safetensors.index.json", text);
    EXPECT_THAT(ReadCheckpointManifest(dir.path()),
                StatusIs(absl::StatusCode::kDataLoss, HasSubstr("index.json")))
        << text.substr(0, 60);
  }
}

TEST(ReadCheckpointManifest, TakesTheLaterOfTwoCopiesOnlyWhenTheIndexNamesIt) {
  const TempDir dir;
  WriteFile(dir, "m-1.safetensors", {"a", "b"});
  WriteFile(dir, "m-2.safetensors", {"a"});
  dir.Write("model.safetensors.index.json",
            R"({"weight_map":{"b":"m-1.safetensors","a":"m-2.safetensors"}})");
  ZC_ASSERT_OK_AND_ASSIGN(const Manifest manifest, ReadCheckpointManifest(dir.path()));
  ASSERT_EQ(manifest.tensors.size(), 2);
  EXPECT_EQ(manifest.tensors[1].tensor.name, "a");
  EXPECT_EQ(manifest.tensors[1].file, 1);

  WriteFile(dir, "m-3.safetensors", {"a", "c"});
  dir.Write(
      "model.safetensors.index.json",
      R"({"weight_map":{"b":"m-1.safetensors","a":"m-2.safetensors","c":"m-3.safetensors"}})");
  EXPECT_THAT(ReadCheckpointManifest(dir.path()),
              StatusIs(absl::StatusCode::kDataLoss,
                       HasSubstr("tensor a is in m-1.safetensors and in m-3.safetensors")));
}

TEST(CheckManifestFiles, FindsAReplacedFile) {
  const TempDir dir;
  WriteFile(dir, "model.safetensors", {"a", "b"});
  ZC_ASSERT_OK_AND_ASSIGN(const Manifest manifest, ReadCheckpointManifest(dir.path()));
  EXPECT_THAT(CheckManifestFiles(manifest, dir.path(), true), IsOk());
  WriteFile(dir, "model.safetensors", {"a", "c"});
  EXPECT_THAT(
      CheckManifestFiles(manifest, dir.path(), false),
      StatusIs(absl::StatusCode::kAborted, HasSubstr("not the one the plan was made from")));
  WriteFile(dir, "model.safetensors", {"a"});
  EXPECT_THAT(CheckManifestFiles(manifest, dir.path(), false),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("the manifest says")));
}

TEST(CheckManifestFiles, FindsAFileWrittenOverWithTheSameShapes) {
  const TempDir dir;
  WriteFile(dir, "model.safetensors", {"a", "b"});
  ZC_ASSERT_OK_AND_ASSIGN(Manifest manifest, ReadCheckpointManifest(dir.path()));
  manifest.files[0].mtime_ns -= 1;  // as if it had been written since
  EXPECT_THAT(CheckManifestFiles(manifest, dir.path(), true),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("modified after")));
  EXPECT_THAT(CheckManifestFiles(manifest, dir.path(), false), IsOk());
}

TEST(ReadCheckpointManifest, DoesNotWaitForAFifo) {
  const TempDir dir;
  ASSERT_EQ(::mkfifo(dir.File("model.safetensors").c_str(), 0600), 0);
  EXPECT_THAT(ReadCheckpointManifest(dir.path()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not a regular file")));
}

}  // namespace
}  // namespace zerocast
