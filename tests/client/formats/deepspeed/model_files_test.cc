// Boxes from recorded checkpoints into files, and how a model is cut into files.
#include "client/formats/deepspeed/model_files.h"

#include <cstring>
#include <string>
#include <vector>

#include "client/formats/deepspeed/consolidate.h"
#include "kernels/copy/algebra.h"
#include "kernels/copy/copy.h"
#include "tests/client/formats/deepspeed/zero_bytes.h"
#include "tests/server/conversion/golden.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;

ModelTensor Floats(const std::string& name, int64_t count) {
  return {name, {count}, DType::kFloat32, {}};
}

TEST(CutIntoShards, FillsAFileUntilTheNextTensorIsTooMuch) {
  // 40, 40, 20, 120, 8 bytes.
  const std::vector<ModelTensor> tensors = {Floats("a", 10), Floats("b", 10), Floats("c", 5),
                                            Floats("large", 30), Floats("d", 2)};
  EXPECT_THAT(CutIntoShards(tensors, 100),
              ElementsAre(ElementsAre(3), ElementsAre(0, 1, 2), ElementsAre(4)));
  EXPECT_THAT(CutIntoShards(tensors, 79),
              ElementsAre(ElementsAre(0), ElementsAre(3), ElementsAre(1, 2, 4)));
  EXPECT_THAT(CutIntoShards(tensors, 1000), ElementsAre(ElementsAre(0, 1, 2, 3, 4)));
  EXPECT_THAT(CutIntoShards({}, 1000), ElementsAre(ElementsAre()));
}

// Each matrix of a checkpoint transposed, each other tensor backwards by halves: boxes that are
// gathered from the pieces of several ranks, some of them long.
TEST(WriteModel, CarriesOutBoxesOverPieces) {
  int num_transposed = 0;
  size_t num_files = 0;
  for (const char* const name : {"mixtral-z3-w2-to-w3", "c2", "tiny-z2-w4", "ernie-z1-w3"}) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      SCOPED_TRACE(name);
      ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint checkpoint,
                              ReadZeroCheckpoint(DeepSpeedFolder(name), ""));
      ZC_ASSERT_OK_AND_ASSIGN(
          Consolidation made,
          Consolidate(checkpoint,
                      dtype == DType::kFloat32 ? ModelDtype::kDefault : ModelDtype::kBFloat16,
                      /*one_name=*/true));
      std::map<std::string, std::string> wanted;
      for (ModelTensor& tensor : made.model.tensors) {
        const ModelSource& source = made.model.sources[static_cast<size_t>(tensor.boxes[0].source)];
        const int32_t index = tensor.boxes[0].source;
        const int64_t count = NumElements(tensor.boxes[0]);
        if (tensor.shape.size() == 2) {
          const int64_t rows = tensor.shape[0], columns = tensor.shape[1];
          const BoxDim dims[] = {{columns, 1, rows}, {rows, columns, 1}};
          ZC_ASSERT_OK_AND_ASSIGN(tensor.boxes[0], MakeBox(index, 0, 0, dims));
          std::swap(tensor.shape[0], tensor.shape[1]);
          ++num_transposed;
        } else if (count > 1) {
          tensor.boxes.clear();
          const BoxDim first[] = {{count / 2, 1, 1}}, second[] = {{count - count / 2, 1, 1}};
          ZC_ASSERT_OK_AND_ASSIGN(Box box, MakeBox(index, 0, count - count / 2, first));
          tensor.boxes.push_back(box);
          ZC_ASSERT_OK_AND_ASSIGN(box, MakeBox(index, count / 2, 0, second));
          tensor.boxes.push_back(box);
        }
        const std::string bytes = PieceBytes(checkpoint, source.pieces);
        std::string& target = wanted[tensor.name];
        target.resize(static_cast<size_t>(count * SizeOf(tensor.dtype)));
        for (const Box& box : tensor.boxes) {
          CopyBoxReference(box, bytes.data(), source.pieces.front().from.dtype, target.data(),
                           tensor.dtype);
        }
      }
      const TempDir temp;
      ZC_ASSERT_OK_AND_ASSIGN(OutputFolder folder, OutputFolder::Create(temp.File("out")));
      PieceCopier::Options options;
      options.num_threads = 3;
      ZC_ASSERT_OK_AND_ASSIGN(const std::vector<ModelFile> files,
                              WriteModel(checkpoint, made.model, folder, 4096, options));
      num_files += files.size();
      EXPECT_THAT(folder.Commit(), IsOk());
      const auto written = ReadSafetensors(temp.File("out"));
      ASSERT_EQ(written.size(), wanted.size());
      for (const ModelTensor& tensor : made.model.tensors) {
        SCOPED_TRACE(tensor.name);
        const StoredTensor& found = written.at(tensor.name);
        EXPECT_EQ(found.shape, tensor.shape);
        EXPECT_EQ(found.dtype, tensor.dtype);
        EXPECT_TRUE(found.bytes == wanted[tensor.name]);
      }
    }
  }
  EXPECT_GT(num_transposed, 40);
  EXPECT_GT(num_files, 20u);
}

TEST(WriteModel, ComparesTheCrcsOfWhatBlocksRead) {
  ZC_ASSERT_OK_AND_ASSIGN(ZeroCheckpoint checkpoint,
                          ReadZeroCheckpoint(DeepSpeedFolder("mixtral-z3-w2"), ""));
  ZC_ASSERT_OK_AND_ASSIGN(Consolidation made,
                          Consolidate(checkpoint, ModelDtype::kDefault, /*one_name=*/true));
  for (ModelTensor& tensor : made.model.tensors) {
    if (tensor.shape.size() != 2) continue;
    const BoxDim dims[] = {{tensor.shape[1], 1, tensor.shape[0]},
                           {tensor.shape[0], tensor.shape[1], 1}};
    ZC_ASSERT_OK_AND_ASSIGN(tensor.boxes[0], MakeBox(tensor.boxes[0].source, 0, 0, dims));
    made.model.tensors = {tensor};
    break;
  }
  ASSERT_EQ(made.model.tensors.size(), 1u);
  const auto& pieces =
      made.model.sources[static_cast<size_t>(made.model.tensors[0].boxes[0].source)].pieces;
  checkpoint.storages[static_cast<size_t>(pieces[0].from.storage)].crc32 ^= 1;
  const TempDir temp;
  ZC_ASSERT_OK_AND_ASSIGN(const OutputFolder folder, OutputFolder::Create(temp.File("out")));
  EXPECT_THAT(WriteModel(checkpoint, made.model, folder, 1 << 30, {}),
              StatusIs(absl::StatusCode::kDataLoss, ::testing::_));
}

TEST(WriteModel, RefusesBoxesThatNoPieceHolds) {
  ZC_ASSERT_OK_AND_ASSIGN(const ZeroCheckpoint checkpoint,
                          ReadZeroCheckpoint(DeepSpeedFolder("mixtral-z3-w2"), ""));
  ZC_ASSERT_OK_AND_ASSIGN(Consolidation made,
                          Consolidate(checkpoint, ModelDtype::kDefault, /*one_name=*/true));
  made.model.sources[0].pieces.pop_back();
  const TempDir temp;
  ZC_ASSERT_OK_AND_ASSIGN(const OutputFolder folder, OutputFolder::Create(temp.File("out")));
  EXPECT_THAT(WriteModel(checkpoint, made.model, folder, 1 << 30, {}),
              StatusIs(absl::StatusCode::kInternal, ::testing::_));
}

}  // namespace
}  // namespace zerocast
