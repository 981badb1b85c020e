#include "client/formats/torch_file.h"

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/formats/crc32.h"
#include "server/base/errors.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

// What tests/oracle/make_torch_files.py made.
std::string Folder() { return std::string(std::getenv("ZC_TORCH_FILES")); }

// The value at a path of dict keys and list indices.
PickleId At(const PickleGraph& graph, PickleId id, const json& path) {
  for (const json& step : path) {
    const std::vector<PickleId>* items = graph.DictItems(id);
    PickleId found = kNoValue;
    if (items == nullptr) {
      const auto& list = graph.node(id).items;
      if (step.is_number() && step.get<size_t>() < list.size()) found = list[step.get<size_t>()];
    } else if (step.is_string()) {
      found = graph.Find(id, step.get<std::string>());
    } else {
      for (size_t k = 0; k + 1 < items->size(); k += 2) {
        const PickleNode& key = graph.node((*items)[k]);
        if (key.kind == PickleKind::kInteger && key.integer == step) found = (*items)[k + 1];
      }
    }
    if (found == kNoValue) return kNoValue;
    id = found;
  }
  return id;
}

// A tensor's elements in C order.
std::string Elements(const InputFile& file, const TorchTensor& tensor) {
  const auto extent = file.Read(tensor.file_begin, tensor.extent_bytes);
  if (!extent.ok()) return std::string(extent.status().message());
  const int64_t size = SizeOf(tensor.dtype);
  std::string out;
  std::vector<int64_t> index(tensor.shape.size(), 0);
  for (int64_t done = 0; done < tensor.num_elements; ++done) {
    int64_t at = 0;
    for (size_t k = 0; k < index.size(); ++k) at += index[k] * tensor.strides[k];
    out.append(*extent, static_cast<size_t>(at * size), static_cast<size_t>(size));
    for (size_t k = index.size(); k > 0 && ++index[k - 1] == tensor.shape[k - 1]; --k) {
      index[k - 1] = 0;
    }
  }
  return out;
}

TEST(TorchFile, ReadsEveryTensorAsTorchLoadsIt) {
  json expected;
  std::ifstream(Folder() + "/expected.json") >> expected;
  int num_tensors = 0;
  for (const auto& [name, tensors] : expected.items()) {
    SCOPED_TRACE(name);
    ZC_ASSERT_OK_AND_ASSIGN(const InputFile input,
                            InputFile::Open(absl::StrCat(Folder(), "/", name)));
    ZC_ASSERT_OK_AND_ASSIGN(const TorchFile file, TorchFile::Read(input));
    for (size_t k = 0; k < file.storages().size(); ++k) {
      EXPECT_THAT(file.CheckStorage(input, static_cast<int32_t>(k)), IsOk());
    }
    for (const json& wanted : tensors) {
      SCOPED_TRACE(wanted["path"].dump());
      const PickleId id = At(file.graph(), file.root(), wanted["path"]);
      ASSERT_NE(id, kNoValue);
      EXPECT_TRUE(file.IsTensor(id));
      ZC_ASSERT_OK_AND_ASSIGN(const TorchTensor tensor, file.Tensor(id, wanted["path"].dump()));
      EXPECT_EQ(DTypeName(tensor.dtype), wanted["dtype"].get<std::string>());
      EXPECT_EQ(tensor.shape, wanted["shape"].get<std::vector<int64_t>>());
      EXPECT_EQ(tensor.strides, wanted["strides"].get<std::vector<int64_t>>());
      EXPECT_EQ(tensor.is_parameter, wanted["parameter"].get<bool>());
      EXPECT_EQ(tensor.requires_grad, wanted["requires_grad"].get<bool>());
      EXPECT_EQ(Crc32(Elements(input, tensor)), wanted["crc32"].get<uint32_t>());
      ++num_tensors;
    }
  }
  EXPECT_GT(expected.size(), 30u);
  EXPECT_GT(num_tensors, 200);
}

absl::StatusOr<TorchFile> Load(const std::string& name) {
  const auto input = InputFile::Open(absl::StrCat(Folder(), "/", name));
  if (!input.ok()) return input.status();
  return TorchFile::Read(*input);
}

TEST(TorchFile, TellsViewsOfOneStorageFromCopies) {
  for (const std::string name : {"made/views.pt", "made/views-legacy.pt", "made/views-p5.pt"}) {
    ZC_ASSERT_OK_AND_ASSIGN(const TorchFile file, Load(name));
    EXPECT_EQ(file.is_legacy(), name == "made/views-legacy.pt");
    EXPECT_EQ(file.storages().size(), 2u);  // all views, and the copy
    std::set<int32_t> storages;
    for (const std::string view :
         {"whole", "transposed", "row", "inner", "step", "expanded", "scalar"}) {
      ZC_ASSERT_OK_AND_ASSIGN(const TorchTensor tensor,
                              file.Tensor(file.graph().Find(file.root(), view), view));
      storages.insert(tensor.storage);
      EXPECT_EQ(tensor.is_contiguous, view == "whole" || view == "row" || view == "scalar") << view;
    }
    EXPECT_EQ(storages.size(), 1u);
  }
}

TEST(TorchFile, KeepsValuesThatItDoesNotKnow) {
  ZC_ASSERT_OK_AND_ASSIGN(const TorchFile file, Load("made/values-p4.pt"));
  const PickleGraph& graph = file.graph();
  const auto shown = [&](absl::string_view key) {
    return graph.Describe(graph.Find(file.root(), key));
  };
  EXPECT_EQ(shown("level"), "a call of http.HTTPStatus");
  EXPECT_EQ(shown("dtype"), "the name torch.bfloat16");
  EXPECT_EQ(shown("ordered"), "a call of collections.OrderedDict");
  EXPECT_EQ(shown("big"), "a number of 13 bytes");
  EXPECT_EQ(shown("text"), "the text \"h\u00e9\\n\\x00\"");
  EXPECT_FALSE(file.IsTensor(graph.Find(file.root(), "level")));
  EXPECT_THAT(file.Tensor(graph.Find(file.root(), "level"), "level"),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("http.HTTPStatus")));
  EXPECT_THAT(file.Tensor(graph.Find(file.root(), "none"), "none"),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("found None")));
}

}  // namespace
}  // namespace zerocast
