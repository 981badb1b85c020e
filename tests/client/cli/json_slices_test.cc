// JSON text is cut into members without being read.
#include "client/cli/json_slices.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::string> Cut(absl::string_view text) {
  const auto members = SplitObject(text);
  EXPECT_THAT(members, IsOk());
  std::vector<std::string> out;
  if (!members.ok()) return out;
  for (const JsonSlice& member : *members) {
    out.push_back(absl::StrCat(member.key, "=", member.value));
  }
  return out;
}

TEST(SplitObject, ValuesStayAsTheyAreWritten) {
  EXPECT_THAT(Cut(R"( {"a" : 1.0 ,"b":[1, {"c": "}]"}], "\u00e9": NaN,"d":-1e400,
                     "e": "x\"y\\", "f": {}, "a": 00123456789012345678901234567890} )"),
              ElementsAre("a=1.0", R"(b=[1, {"c": "}]"}])", "\u00e9=NaN", "d=-1e400",
                          R"(e="x\"y\\")", "f={}", "a=00123456789012345678901234567890"));
  EXPECT_THAT(Cut("{}"), ElementsAre());
  EXPECT_THAT(Cut("{\"a\":\"\xE2\x80\xA8\"}"), ElementsAre("a=\"\xE2\x80\xA8\""));
}

TEST(SplitObject, WhatIsNoObjectIsRefusedAtItsByte) {
  for (const char* text :
       {"", " ", "[]", "1", "{", R"({"a")", R"({"a":)", R"({"a":})", R"({"a":1)", R"({"a":1,)",
        R"({"a":1,})", R"({"a":1}x)", R"({a:1})", R"({"a" 1})", R"({"a":"x)", R"({"a":[1})",
        R"({"a":1 2})", R"({"a\x":1})", "{\"a\":\"\\"}) {
    EXPECT_THAT(SplitObject(text), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("line")))
        << text;
  }
}

TEST(SplitObject, DepthCostsNothing) {
  const std::string deep = absl::StrCat(std::string(500'000, '['), std::string(500'000, ']'));
  EXPECT_THAT(Cut(absl::StrCat(R"({"a": )", deep, "}")), ElementsAre(absl::StrCat("a=", deep)));
}

TEST(JsonString, ComesBackAsItWas) {
  for (const std::string text : {"", "a\"b\\c\n\t", "\u2028\U0001F600", "\x01"}) {
    ZC_ASSERT_OK_AND_ASSIGN(const std::string back, ReadJsonString(WriteJsonString(text)));
    EXPECT_EQ(back, text);
  }
  EXPECT_EQ(ReadJsonString("5").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReadJsonString(R"("\ud800")").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace zerocast
