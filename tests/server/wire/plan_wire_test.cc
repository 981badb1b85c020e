#include "server/wire/plan_wire.h"

#include <memory>
#include <string>

#include "server/base/errors.h"
#include "server/wire/gzip.h"
#include "server/wire/key_mapping.h"
#include "server/wire/plan_input.h"
#include "server/wire/report_wire.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

// Two files, three tensors, all in order.
v1::Manifest Small() {
  v1::Manifest manifest;
  for (const char* path : {"model-1.safetensors", "sub/model-2.safetensors"}) {
    auto* file = manifest.add_files();
    file->set_path(path);
    file->set_num_bytes(100);
    file->set_mtime_ns(7);
    file->set_header_digest(0xfedcba9876543210u);
  }
  const auto add = [&manifest](const char* name, int file, int64_t begin) {
    auto* tensor = manifest.add_tensors();
    tensor->set_name(name);
    tensor->set_dtype(v1::DTYPE_BFLOAT16);
    tensor->add_shape(2);
    tensor->add_shape(3);
    tensor->set_file(file);
    tensor->set_file_begin(begin);
  };
  add("a", 0, 8);
  add("b", 0, 20);
  add("c", 1, 88);
  manifest.set_config_json("{}");
  return manifest;
}

TEST(Manifest, RoundTrips) {
  ZC_ASSERT_OK_AND_ASSIGN(const Manifest manifest, ManifestFromProto(Small()));
  EXPECT_EQ(manifest.tensors[1].file_end, 32);
  EXPECT_EQ(ManifestToProto(manifest).SerializeAsString(), Small().SerializeAsString());
}

TEST(Manifest, RoundTripsStridesAndFilesThatAreListedTwice) {
  v1::Manifest manifest = Small();
  *manifest.mutable_files(1) = manifest.files(0);
  manifest.mutable_tensors(0)->add_strides(1);
  manifest.mutable_tensors(0)->add_strides(2);
  auto* gaps = manifest.mutable_tensors(2);
  gaps->set_file_begin(8);  // over those of a and b
  gaps->add_strides(20);
  gaps->add_strides(2);
  ZC_ASSERT_OK_AND_ASSIGN(const Manifest read, ManifestFromProto(manifest));
  EXPECT_THAT(read.tensors[0].tensor.strides, ElementsAre(1, 2));
  EXPECT_EQ(read.tensors[0].file_end, 20);
  EXPECT_EQ(read.tensors[2].file_end, 8 + 2 * (20 + 2 * 2 + 1));
  EXPECT_EQ(ManifestToProto(read).SerializeAsString(), manifest.SerializeAsString());
}

TEST(Manifest, RefusesFilesThatAreListedTwiceAndDiffer) {
  for (const auto change : {+[](v1::ManifestFile* file) { file->set_num_bytes(101); },
                            +[](v1::ManifestFile* file) { file->set_mtime_ns(8); },
                            +[](v1::ManifestFile* file) { file->set_header_digest(1); }}) {
    v1::Manifest manifest = Small();
    *manifest.mutable_files(1) = manifest.files(0);
    change(manifest.mutable_files(1));
    EXPECT_THAT(ManifestFromProto(manifest),
                StatusIs(kInvalid, HasSubstr("manifest.files[1]: repeats 'model-1.safetensors' of "
                                             "files[0], and must be alike")));
  }
}

TEST(Manifest, RefusesStridesThatAreNone) {
  for (const std::vector<int64_t>& strides :
       {std::vector<int64_t>{1}, {0, 1}, {1, 1}, {2, 1}, {-3, 1}, {int64_t{1} << 62, 1}}) {
    v1::Manifest manifest = Small();
    manifest.mutable_tensors(1)->mutable_strides()->Add(strides.begin(), strides.end());
    EXPECT_THAT(ManifestFromProto(manifest),
                StatusIs(kInvalid, HasSubstr("manifest.tensors[1] ('b').strides: must be those")));
  }
  // As far as the reach of the last element, and no further.
  v1::Manifest manifest = Small();
  for (const int64_t stride : {4, 1}) manifest.mutable_tensors(2)->add_strides(stride);
  manifest.mutable_tensors(2)->set_file_begin(86);
  EXPECT_THAT(ManifestFromProto(manifest), IsOk());
  manifest.mutable_tensors(2)->set_file_begin(87);
  EXPECT_THAT(ManifestFromProto(manifest), StatusIs(kInvalid, HasSubstr("do not fit")));
}

TEST(Manifest, RefusesPathsThatLeaveTheFolder) {
  for (const char* path : {"", "/etc/shadow", "../x", "a/../../x", "a//b", "./a"}) {
    v1::Manifest manifest = Small();
    manifest.mutable_files(1)->set_path(path);
    EXPECT_THAT(ManifestFromProto(manifest), StatusIs(kInvalid, HasSubstr("files[1].path")))
        << path;
  }
}

TEST(Manifest, RefusesDataOutsideItsFile) {
  v1::Manifest manifest = Small();
  manifest.mutable_tensors(2)->set_file_begin(89);
  EXPECT_THAT(ManifestFromProto(manifest),
              StatusIs(kInvalid, HasSubstr("12 bytes at offset 89 do not fit")));
  manifest.mutable_tensors(2)->set_file_begin(INT64_MAX);
  EXPECT_THAT(ManifestFromProto(manifest), StatusIs(kInvalid, HasSubstr("do not fit")));
  manifest.mutable_tensors(2)->set_file_begin(-1);
  EXPECT_THAT(ManifestFromProto(manifest), StatusIs(kInvalid, HasSubstr("do not fit")));
}

TEST(Manifest, RefusesShapesThatOverflow) {
  v1::Manifest manifest = Small();
  manifest.mutable_tensors(0)->set_shape(0, INT64_MAX);
  EXPECT_THAT(ManifestFromProto(manifest), StatusIs(kInvalid, HasSubstr("64 bits")));
  manifest.mutable_tensors(0)->add_shape(0);
  EXPECT_THAT(ManifestFromProto(manifest), StatusIs(kInvalid, HasSubstr("64 bits")));
  manifest.mutable_tensors(0)->set_shape(0, -2);
  EXPECT_THAT(ManifestFromProto(manifest), StatusIs(kInvalid, HasSubstr("negative")));
}

TEST(Manifest, RefusesUnknownDtypesFilesAndEmptyNames) {
  v1::Manifest manifest = Small();
  manifest.mutable_tensors(0)->set_dtype(static_cast<v1::Dtype>(v1::Dtype_MAX + 1));
  manifest.mutable_tensors(1)->set_file(2);
  manifest.mutable_tensors(2)->set_name("");
  const auto result = ManifestFromProto(manifest);
  EXPECT_EQ(ViolationsOf(result.status()).size(), 3) << result.status();
  EXPECT_EQ(ReasonOf(result.status()), "INVALID_FIELDS");
}

TEST(Manifest, RefusesOverlapDisorderAndRepeatedNames) {
  v1::Manifest overlap = Small();
  overlap.mutable_tensors(1)->set_file_begin(19);
  EXPECT_THAT(ManifestFromProto(overlap),
              StatusIs(kInvalid, HasSubstr("'b' shares bytes with 'a'")));
  v1::Manifest disorder = Small();
  disorder.mutable_tensors()->SwapElements(0, 1);
  EXPECT_THAT(ManifestFromProto(disorder), StatusIs(kInvalid, HasSubstr("sorted")));
  v1::Manifest twice = Small();
  twice.mutable_tensors(2)->set_name("a");
  EXPECT_THAT(ManifestFromProto(twice), StatusIs(kInvalid, HasSubstr("repeats the name 'a'")));
}

TEST(Manifest, AcceptsEmptyTensors) {
  v1::Manifest manifest = Small();
  manifest.mutable_tensors(1)->set_shape(0, 0);
  ZC_ASSERT_OK_AND_ASSIGN(const Manifest domain, ManifestFromProto(manifest));
  EXPECT_EQ(domain.tensors[1].file_begin, domain.tensors[1].file_end);
}

TEST(Manifest, ListsABoundedNumberOfViolations) {
  v1::Manifest manifest = Small();
  for (int i = 0; i < 1000; ++i) manifest.add_tensors();
  EXPECT_EQ(ViolationsOf(ManifestFromProto(manifest).status()).size(), kMaxManifestViolations);
}

Layout FourRanks() {
  Layout layout;
  layout.world_size = 4;
  layout.num_nodes = 2;
  layout.node_of_rank = {0, 0, 1, 1};
  layout.zero_stage = 3;
  layout.hpz_partition_size = 2;
  layout.read_mode = ReadMode::kRank0;
  layout.move_mode = MoveMode::kBroadcast;
  layout.device = LoadDevice::kCuda;
  layout.placement = Placement::kHost;
  layout.dtype = DTypePolicy::kBFloat16;
  layout.round_bytes = 12345;
  layout.allow_missing = {"lm_head"};
  layout.ignore_mismatched = true;
  return layout;
}

TEST(Layout, RoundTrips) {
  const v1::Layout wire = LayoutToProto(FourRanks());
  ZC_ASSERT_OK_AND_ASSIGN(const Layout layout, LayoutFromProto(wire));
  EXPECT_EQ(LayoutToProto(layout).SerializeAsString(), wire.SerializeAsString());
  EXPECT_EQ(layout.read_mode, ReadMode::kRank0);
  EXPECT_EQ(layout.hpz_partition_size, 2);
  EXPECT_EQ(layout.placement, Placement::kHost);
  v1::Layout of_an_older_server = wire;
  of_an_older_server.clear_placement();
  EXPECT_EQ(LayoutFromProto(of_an_older_server)->placement, Placement::kDevice);
  EXPECT_THAT(layout.node_of_rank, ElementsAre(0, 0, 1, 1));
}

TEST(Layout, NamesEveryFieldThatIsWrong) {
  v1::Layout wire = LayoutToProto(FourRanks());
  wire.set_world_size(5);
  wire.set_node_of_rank(0, 9);
  wire.set_zero_stage(4);
  wire.set_hpz_partition_size(-1);
  wire.set_round_bytes(0);
  wire.set_dtype(v1::DTYPE_POLICY_UNSPECIFIED);
  wire.set_read_mode(static_cast<v1::ReadMode>(77));
  wire.set_placement(static_cast<v1::Placement>(77));
  const auto result = LayoutFromProto(wire);
  EXPECT_EQ(ViolationsOf(result.status()).size(), 8) << result.status();
}

PlanInput SmallInput() {
  PlanInput input;
  input.manifest = std::make_shared<const Manifest>(*ManifestFromProto(Small()));
  input.model_spec_json = "{\"params\": []}";
  input.key_mapping_json = "{\"^a\": \"b\"}";
  input.layout = FourRanks();
  return input;
}

TEST(PlanInput, RoundTripsAndIsDeterministic) {
  const std::string compressed = CompressPlanInput(SmallInput());
  ZC_ASSERT_OK_AND_ASSIGN(const PlanInput back, DecompressPlanInput(compressed));
  EXPECT_EQ(back.model_spec_json, SmallInput().model_spec_json);
  EXPECT_EQ(CompressPlanInput(back), compressed);
}

TEST(PlanInput, RefusesEveryCut) {
  const std::string compressed = CompressPlanInput(SmallInput());
  for (size_t n = 0; n < compressed.size(); ++n) {
    EXPECT_THAT(DecompressPlanInput(compressed.substr(0, n)), StatusIs(kInvalid, HasSubstr("gzip")))
        << n;
  }
}

TEST(PlanInput, RefusesAFlippedByte) {
  std::string compressed = CompressPlanInput(SmallInput());
  compressed[compressed.size() / 2] ^= 0x10;
  EXPECT_EQ(DecompressPlanInput(compressed).status().code(), kInvalid);
}

TEST(Gunzip, StopsAtTheLimit) {
  const std::string bomb = Gzip(std::string(10 << 20, 'x'));
  EXPECT_LT(bomb.size(), 20000);
  EXPECT_THAT(Gunzip(bomb, 1 << 20),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("limit of 1048576")));
  EXPECT_THAT(Gunzip(bomb, 10 << 20), IsOk());
}

TEST(Gunzip, RefusesWhatFollowsTheEnd) {
  EXPECT_THAT(Gunzip(Gzip("x") + "y", 10), StatusIs(kInvalid, HasSubstr("gzip")));
}

TEST(Gunzip, OfNothingIsNothing) {
  ZC_ASSERT_OK_AND_ASSIGN(const std::string bytes, Gunzip(Gzip(""), 0));
  EXPECT_EQ(bytes, "");
}

TEST(KeyMapping, KeepsTheOrderOfTheText) {
  ZC_ASSERT_OK_AND_ASSIGN(const auto rules, ParseKeyMapping(R"({"^z": "1", "^a": "2"})"));
  ASSERT_EQ(rules.size(), 2);
  EXPECT_THAT(rules[0].from, ElementsAre("^z"));
  EXPECT_THAT(rules[0].to, ElementsAre("1"));
  EXPECT_EQ(rules[0].kind, RuleKind::kRename);
  EXPECT_THAT(rules[1].from, ElementsAre("^a"));
}

TEST(KeyMapping, EmptyTextGivesNoRules) {
  ZC_ASSERT_OK_AND_ASSIGN(const auto rules, ParseKeyMapping(""));
  EXPECT_TRUE(rules.empty());
}

TEST(KeyMapping, RefusesWhatIsNotAnObjectOfStrings) {
  EXPECT_THAT(ParseKeyMapping("[]"), StatusIs(kInvalid, HasSubstr("one JSON object")));
  EXPECT_THAT(ParseKeyMapping("\"x\""), StatusIs(kInvalid, HasSubstr("one JSON object")));
  EXPECT_THAT(ParseKeyMapping(R"({"a": 1})"),
              StatusIs(kInvalid, HasSubstr("'a' must be a string")));
  EXPECT_THAT(ParseKeyMapping(R"({"a": {"b": "c"}})"), StatusIs(kInvalid, HasSubstr("a string")));
  EXPECT_THAT(ParseKeyMapping(R"({"a": "1", "a": "2"})"), StatusIs(kInvalid, HasSubstr("twice")));
  EXPECT_THAT(ParseKeyMapping(R"({"": "1"})"), StatusIs(kInvalid, HasSubstr("empty pattern")));
  EXPECT_THAT(ParseKeyMapping("{\"a\""), StatusIs(kInvalid, HasSubstr("not JSON")));
  EXPECT_THAT(ParseKeyMapping(std::string(200000, '[')), StatusIs(kInvalid, HasSubstr("object")));
}

TEST(Report, RoundTrips) {
  Report report;
  report.missing = {"m"};
  report.unexpected = {"u"};
  report.mismatched.push_back({"w", {1, 2}, {2, 1}, "from 'v' in f"});
  report.conversion_errors.push_back({"t", {"s1", "s2"}, "does not fit"});
  report.missing_unknown = true;
  report.rules_unknown = true;
  report.dtype = "bf16";
  report.dtype_reason = "--dtype";
  const v1::LoadReport wire = ReportToProto(report);
  EXPECT_EQ(ReportToProto(ReportFromProto(wire)).SerializeAsString(), wire.SerializeAsString());
  EXPECT_EQ(wire.mismatched(0).model_shape(0), 2);
  EXPECT_EQ(wire.mismatched(0).origin(), "from 'v' in f");
  EXPECT_TRUE(wire.rules_unknown());
  EXPECT_EQ(wire.conversion_errors(0).sources(1), "s2");
}

}  // namespace
}  // namespace zerocast
