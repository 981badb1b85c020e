// Folders of which a file is missing, torn or of another save: each is named.
#include <unistd.h>

#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "client/formats/deepspeed/zero_checkpoint.h"
#include "client/formats/zip_archive.h"
#include "server/base/errors.h"
#include "tests/client/formats/deepspeed/zero_bytes.h"
#include "tests/server/conversion/golden.h"
#include "tests/status_matchers.h"
#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kModel[] = "_mp_rank_00_model_states.pt";
constexpr char kOptim[] = "_mp_rank_00_optim_states.pt";

void WriteWhole(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

class ZeroDamage : public ::testing::Test {
 protected:
  // A copy of a recorded folder's tag, linked by `latest`.
  void Copy(const std::string& name) {
    const std::string from = DeepSpeedFolder(name);
    const std::string command = "cp -r '" + from + "/.' '" + folder_ + "'";
    ASSERT_EQ(std::system(command.c_str()), 0);
    std::ifstream(from + "/latest") >> tag_;
    tag_ = folder_ + "/" + tag_ + "/";
  }
  std::string Bytes(const std::string& name) { return ReadWholeFile(tag_ + name); }
  void Write(const std::string& name, const std::string& bytes) { WriteWhole(tag_ + name, bytes); }
  void Remove(const std::string& name) { ASSERT_EQ(::unlink((tag_ + name).c_str()), 0); }
  absl::Status Read() { return ReadZeroCheckpoint(folder_, "").status(); }

  TempDir temp_;
  std::string folder_ = temp_.path();
  std::string tag_;
};

TEST_F(ZeroDamage, NamesEachMissingFile) {
  Copy("c2");
  Remove(std::string("zero_pp_rank_1") + kOptim);
  Remove(std::string("zero_pp_rank_2") + kModel);
  std::vector<absl::Status> problems;
  const auto read = ReadZeroCheckpoint(folder_, "", {}, &problems);
  EXPECT_THAT(
      problems,
      ElementsAre(
          StatusIs(absl::StatusCode::kNotFound, AllOf(HasSubstr("zero_pp_rank_2_mp_rank_00_model"),
                                                      HasSubstr("node of rank 2"))),
          StatusIs(absl::StatusCode::kNotFound, HasSubstr("zero_pp_rank_1_mp_rank_00_optim"))));
  EXPECT_EQ(read.status(), problems[0]);
  EXPECT_EQ(ReasonOf(problems[0]), "CHECKPOINT_NOT_FOUND");
}

TEST_F(ZeroDamage, NamesTheMissingFileOfRank0) {
  Copy("c2");
  Remove(std::string("zero_pp_rank_0") + kModel);
  EXPECT_THAT(Read(), StatusIs(absl::StatusCode::kNotFound,
                               AllOf(HasSubstr("zero_pp_rank_0_mp_rank_00"),
                                     HasSubstr("is missing"), HasSubstr("node of rank 0"))));
}

TEST_F(ZeroDamage, NamesADamagedStepByItsCrc) {
  Copy("keep_c1");
  const std::string name = "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt";
  ZC_ASSERT_OK_AND_ASSIGN(const InputFile file, InputFile::Open(tag_ + name));
  ZC_ASSERT_OK_AND_ASSIGN(const ZipArchive archive, ZipArchive::Read(file));
  std::string bytes = Bytes(name);
  // The steps are the storages of one float.
  for (const ZipEntry& entry : archive.entries()) {
    if (absl::StrContains(entry.name, "/data/") && entry.num_bytes == 4) {
      bytes[static_cast<size_t>(entry.data_begin)] ^= 1;
    }
  }
  Write(name, bytes);
  EXPECT_THAT(Read(), StatusIs(absl::StatusCode::kDataLoss,
                               AllOf(HasSubstr(name), HasSubstr("have CRC-32"))));
}

TEST_F(ZeroDamage, NamesTheFileThatWasCut) {
  for (const std::string name : {"zero_pp_rank_0_mp_rank_00_model_states.pt",
                                 "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"}) {
    Copy("keep_c1");
    const std::string bytes = Bytes(name);
    for (const size_t left : {bytes.size() - 1, bytes.size() / 2, size_t{3}, size_t{0}}) {
      Write(name, bytes.substr(0, left));
      EXPECT_THAT(Read(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr(name))) << left;
    }
  }
}

TEST_F(ZeroDamage, NamesFilesOfTwoSaves) {
  Copy("mixtral-z3-w2-to-w3");
  // Rank 2's model states of a save by other ranks.
  Write("zero_pp_rank_2_mp_rank_00_model_states.pt",
        ReadWholeFile(DeepSpeedFolder("mixtral-z3-w2") +
                      "/global_step3/zero_pp_rank_1_mp_rank_00_model_states.pt"));
  EXPECT_THAT(Read(), StatusIs(absl::StatusCode::kDataLoss,
                               AllOf(HasSubstr("zero_pp_rank_2"), HasSubstr("dp_world_size is 2"),
                                     HasSubstr("two saves"))));
}

TEST_F(ZeroDamage, NamesOptimizerStatesOfAnotherSave) {
  Copy("mixtral-z3-w2-to-w3");
  Write("bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt",
        ReadWholeFile(DeepSpeedFolder("mixtral-z3-w2") +
                      "/global_step3/bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"));
  EXPECT_THAT(Read(),
              StatusIs(absl::StatusCode::kDataLoss, AllOf(HasSubstr("rank_1_mp_rank_00_optim"),
                                                          HasSubstr("partition_count is 2"))));
}

TEST_F(ZeroDamage, NamesAFileOfAnotherModel) {
  Copy("c2");
  Write("zero_pp_rank_1_mp_rank_00_model_states.pt",
        ReadWholeFile(DeepSpeedFolder("mixtral-z3-w2-to-w3") +
                      "/global_step3/zero_pp_rank_1_mp_rank_00_model_states.pt"));
  EXPECT_THAT(Read(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("zero_pp_rank_1")));
}

TEST_F(ZeroDamage, NamesFilesWithAndWithoutThePrefix) {
  Copy("keep_c1");
  Write("zero_pp_rank_2_mp_rank_00_optim_states.pt", "");
  EXPECT_THAT(Read(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("two saves")));
}

TEST_F(ZeroDamage, NamesFilesOfRanksThatTheCheckpointHasNot) {
  Copy("c2");
  Write("zero_pp_rank_3_mp_rank_00_model_states.pt",
        Bytes("zero_pp_rank_2_mp_rank_00_model_states.pt"));
  EXPECT_THAT(Read(), StatusIs(absl::StatusCode::kDataLoss,
                               AllOf(HasSubstr("zero_pp_rank_3"), HasSubstr("of 3 ranks"))));
}

TEST_F(ZeroDamage, NamesAMissingStateOfTheUniversalForm) {
  Copy("mixtral-z3-w2-uni");
  Remove("zero/model.norm.weight/exp_avg.pt");
  EXPECT_THAT(Read(), StatusIs(absl::StatusCode::kDataLoss,
                               AllOf(HasSubstr("zero/model.norm.weight"), HasSubstr("exp_avg"))));
}

TEST_F(ZeroDamage, NamesAMissingOrTornStepOfTheUniversalForm) {
  Copy("tiny-z2-w4-uni");
  const std::string bytes = Bytes("zero/lin1.weight/step.pt");
  Write("zero/lin1.weight/step.pt", bytes.substr(0, bytes.size() / 2));
  EXPECT_THAT(Read(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("zero/lin1.weight/step.pt")));
  Remove("zero/lin1.weight/step.pt");
  EXPECT_THAT(Read(), StatusIs(absl::StatusCode::kDataLoss,
                               AllOf(HasSubstr("zero/lin1.weight"), HasSubstr("no step.pt"))));
}

TEST_F(ZeroDamage, NamesAMissingParameterOfTheUniversalForm) {
  Copy("mixtral-z3-w2-uni");
  ASSERT_EQ(std::system(("rm -r '" + tag_ + "zero/lm_head.weight'").c_str()), 0);
  EXPECT_THAT(Read(), StatusIs(absl::StatusCode::kNotFound, HasSubstr("zero/lm_head.weight")));
}

TEST_F(ZeroDamage, NamesAStateOfAnotherShape) {
  Copy("mixtral-z3-w2-uni");
  Write("zero/model.norm.weight/fp32.pt", Bytes("zero/lm_head.weight/fp32.pt"));
  EXPECT_THAT(Read(), StatusIs(absl::StatusCode::kDataLoss,
                               AllOf(HasSubstr("model.norm.weight/fp32.pt"),
                                     HasSubstr("3072 elements"), HasSubstr("says 32"))));
}

TEST_F(ZeroDamage, SaysWhatIsNotThere) {
  EXPECT_THAT(ReadZeroCheckpoint(folder_ + "/none", ""),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("doesn't exist")));
  EXPECT_THAT(Read(), StatusIs(absl::StatusCode::kNotFound,
                               AllOf(HasSubstr("Unable to find 'latest' file at"),
                                     HasSubstr("holds no DeepSpeed checkpoint"))));
  Copy("c2");
  EXPECT_THAT(ReadZeroCheckpoint(folder_, "global_step9"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("there are global_step2")));
  WriteWhole(folder_ + "/latest", "global_step9\n");
  EXPECT_THAT(Read(),
              StatusIs(absl::StatusCode::kNotFound, AllOf(HasSubstr("says \"global_step9\""),
                                                          HasSubstr("there are global_step2"))));
  EXPECT_THAT(ReadZeroCheckpoint(folder_ + "/latest", ""),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("is a file")));
}

TEST_F(ZeroDamage, RefusesOtherParallelismByName) {
  const struct {
    const char* file;
    const char* says;
  } cases[] = {{"mp_rank_01_model_states.pt", "tensor parallelism"},
               {"zero_pp_rank_0_mp_rank_01_model_states.pt", "tensor parallelism"},
               {"layer_01-model_00-model_states.pt", "pipeline parallelism"},
               {"layer_0_expert_1_mp_rank_00_model_states.pt", "expert parallelism"},
               {"expp_rank_0_mp_rank_00_optim_states.pt", "expert parallelism"}};
  for (const auto& each : cases) {
    Copy("c2");
    Write(each.file, "");
    EXPECT_THAT(Read(), StatusIs(absl::StatusCode::kUnimplemented,
                                 AllOf(HasSubstr(each.file), HasSubstr(each.says))));
    Remove(each.file);
  }
}

TEST_F(ZeroDamage, RunsNothingOfAMaliciousFile) {
  Copy("c2");
  // os.system("touch DIR/ran"), as a pickle of protocol 2 in a legacy stream's place.
  const std::string command = "touch " + folder_ + "/ran";
  std::string evil(
      "\x80\x02"
      "cposix\nsystem\nX",
      17);
  evil.push_back(static_cast<char>(command.size()));
  evil += std::string(3, '\0') + command + "\x85R.";
  Write("zero_pp_rank_0_mp_rank_00_model_states.pt", evil);
  EXPECT_THAT(Read(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("zero_pp_rank_0")));
  EXPECT_NE(::access((folder_ + "/ran").c_str(), F_OK), 0);
}

}  // namespace
}  // namespace zerocast
