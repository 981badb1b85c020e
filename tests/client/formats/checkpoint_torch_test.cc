// Folders whose weights torch.save wrote.
#include <filesystem>
#include <string>
#include <vector>

#include "client/formats/checkpoint.h"
#include "client/formats/safetensors_writer.h"
#include "client/formats/torch_weights.h"
#include "server/base/errors.h"
#include "tests/client/formats/torch_bytes.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A file with these tensors, all of them the four floats of one storage.
std::string TorchBytes(const std::vector<std::string>& names) {
  std::string object = "}(";
  for (const std::string& name : names) object += PickledText(name) + PickledTensor().Text();
  return ZipOf(TorchParts(object + "u"));
}

std::vector<std::string> NamesIn(const Manifest& manifest) {
  std::vector<std::string> names;
  for (const ManifestTensor& tensor : manifest.tensors) names.push_back(tensor.tensor.name);
  return names;
}

TEST(TorchCheckpoint, IsTakenInTheLibrarysOrder) {
  const TempDir dir;
  const auto names = [&dir] {
    const auto manifest = ReadCheckpointManifest(dir.path());
    return manifest.ok() ? NamesIn(*manifest)
                         : std::vector<std::string>{std::string(manifest.status().message())};
  };
  dir.Write("shard.bin", TorchBytes({"sharded_bin"}));
  dir.Write("pytorch_model.bin.index.json", R"({"weight_map":{"sharded_bin":"shard.bin"}})");
  EXPECT_THAT(names(), ElementsAre("sharded_bin"));
  dir.Write("pytorch_model.bin", TorchBytes({"bin"}));
  EXPECT_THAT(names(), ElementsAre("bin"));
  const auto safetensors = [&dir](const std::string& file, const std::string& name) {
    ASSERT_THAT(WriteSafetensors(dir.File(file), {{name, DType::kUInt8, {4}, "data"}}, {}), IsOk());
  };
  safetensors("shard.safetensors", "sharded");
  dir.Write("model.safetensors.index.json", R"({"weight_map":{"sharded":"shard.safetensors"}})");
  EXPECT_THAT(names(), ElementsAre("sharded"));
  safetensors("model.safetensors", "single");
  EXPECT_THAT(names(), ElementsAre("single"));
}

TEST(TorchCheckpoint, OfAVariantIsTakenAlone) {
  const TempDir dir;
  dir.Write("pytorch_model.bin", TorchBytes({"plain"}));
  dir.Write("x.bin", TorchBytes({"sharded"}));
  dir.Write("pytorch_model.bin.index.fp16.json", R"({"weight_map":{"sharded":"x.bin"}})");
  ZC_ASSERT_OK_AND_ASSIGN(const Manifest sharded, ReadCheckpointManifest(dir.path(), {}, "fp16"));
  EXPECT_THAT(NamesIn(sharded), ElementsAre("sharded"));
  dir.Write("pytorch_model.fp16.bin", TorchBytes({"single"}));
  ZC_ASSERT_OK_AND_ASSIGN(const Manifest single, ReadCheckpointManifest(dir.path(), {}, "fp16"));
  EXPECT_THAT(NamesIn(single), ElementsAre("single"));
  EXPECT_THAT(
      ReadCheckpointManifest(dir.path(), {}, "8bit"),
      StatusIs(absl::StatusCode::kNotFound,
               HasSubstr("nor pytorch_model.8bit.bin nor pytorch_model.bin.index.8bit.json")));
}

TEST(TorchCheckpoint, ListsAFileOnceForEachTensorOverOneByte) {
  const TempDir dir;
  dir.Write("a.bin", TorchBytes({"a", "tied"}));
  dir.Write("b.bin", TorchBytes({"b"}));
  dir.Write("pytorch_model.bin.index.json", R"({"weight_map":{"a":"a.bin","b":"b.bin"}})");
  ZC_ASSERT_OK_AND_ASSIGN(const Manifest manifest, ReadCheckpointManifest(dir.path()));
  ASSERT_EQ(manifest.files.size(), 3u);
  EXPECT_EQ(manifest.files[0].path, "a.bin");
  EXPECT_EQ(manifest.files[1].path, "a.bin");
  EXPECT_EQ(manifest.files[1].header_digest, manifest.files[0].header_digest);
  EXPECT_EQ(manifest.files[2].path, "b.bin");
  EXPECT_THAT(NamesIn(manifest), ElementsAre("a", "tied", "b"));
  EXPECT_EQ(manifest.tensors[1].file, 1);
  EXPECT_EQ(manifest.tensors[1].file_begin, manifest.tensors[0].file_begin);
  EXPECT_EQ(manifest.tensors[2].file, 2);
  EXPECT_THAT(CheckManifestFiles(manifest, dir.path(), true), IsOk());
}

TEST(TorchCheckpoint, ReadsEachFileOfItsIndexByItsName) {
  const TempDir dir;
  ASSERT_THAT(WriteSafetensors(dir.File("b.safetensors"), {{"b", DType::kUInt8, {4}, "data"}}, {}),
              IsOk());
  dir.Write("a.pt", TorchBytes({"a"}));
  dir.Write("pytorch_model.bin.index.json", R"({"weight_map":{"a":"a.pt","b":"b.safetensors"}})");
  ZC_ASSERT_OK_AND_ASSIGN(const Manifest manifest, ReadCheckpointManifest(dir.path()));
  EXPECT_THAT(NamesIn(manifest), ElementsAre("a", "b"));
  for (const std::string file : {"../a.pt", "/a.pt", "..", ""}) {
    dir.Write("pytorch_model.bin.index.json", "{\"weight_map\":{\"a\":\"" + file + "\"}}");
    EXPECT_THAT(ReadCheckpointManifest(dir.path()),
                StatusIs(absl::StatusCode::kDataLoss,
                         HasSubstr("\"" + file + "\" is not the name of a file beside it")));
  }
  dir.Write("pytorch_model.bin.index.json", R"({"weight_map":{"a":"gone.bin"}})");
  EXPECT_THAT(ReadCheckpointManifest(dir.path()),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("in gone.bin, which is missing")));
}

TEST(TorchCheckpoint, RefusesAFileWithoutATensor) {
  const TempDir dir;
  dir.Write("pytorch_model.bin", TorchBytes({}));
  EXPECT_THAT(ReadCheckpointManifest(dir.path()),
              StatusIs(absl::StatusCode::kDataLoss,
                       HasSubstr("pytorch_model.bin: it holds no tensor: there is nothing")));
}

TEST(TorchCheckpoint, IsCheckedByWhatItsFilesSay) {
  const TempDir dir;
  const std::string path = dir.Write("pytorch_model.bin", TorchBytes({"a"}));
  ZC_ASSERT_OK_AND_ASSIGN(const Manifest manifest, ReadCheckpointManifest(dir.path()));
  EXPECT_THAT(CheckManifestFiles(manifest, dir.path(), true), IsOk());
  dir.Write("pytorch_model.bin", TorchBytes({"b"}));
  EXPECT_THAT(CheckManifestFiles(manifest, dir.path(), false),
              StatusIs(absl::StatusCode::kAborted,
                       HasSubstr(path + ": its header is not the one the plan was made from")));
  // As long and of the same shapes: the CRC in the directory tells.
  std::vector<ZipPart> parts = TorchParts("}(" + PickledText("a") + PickledTensor().Text() + "u");
  parts[2].data = std::string(16, 'y');
  dir.Write("pytorch_model.bin", ZipOf(parts));
  EXPECT_THAT(CheckManifestFiles(manifest, dir.path(), false),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("its header is not the one")));
  dir.Write("pytorch_model.bin", "not a file of torch.save");
  const absl::Status cut = CheckManifestFiles(manifest, dir.path(), false);
  EXPECT_THAT(cut, StatusIs(absl::StatusCode::kAborted, HasSubstr("bytes, the manifest says")));
}

}  // namespace
}  // namespace zerocast
