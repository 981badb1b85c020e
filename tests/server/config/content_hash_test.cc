#include "server/config/content_hash.h"

#include <gtest/gtest.h>

#include <string>

#include "server/config/json_reader.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

ConfigValue Read(absl::string_view text) {
  const auto document = ReadJson(text, "test");
  EXPECT_THAT(document, IsOk()) << text;
  return document.ok() ? document->value : ConfigValue();
}

std::string Hash(absl::string_view text) { return ContentHash(Read(text)); }

TEST(ContentHash, IsThatOfPythonsSortedCompactJson) {
  // json.dumps(..., sort_keys=True, separators=(",", ":"), ensure_ascii=False) of CPython 3.11.
  EXPECT_EQ(CanonicalJson(Read("{\"b\": [1, 1.0, true, null], \"\xC3\xA9\": 5e8, \"a\": "
                               "{\"z\": 1e-5, \"Z\": \"\\u00e9\\n\"}, \"\\ud83d\\ude00\": NaN}")),
            "{\"a\":{\"Z\":\"\xC3\xA9\\n\",\"z\":1e-05},\"b\":[1,1.0,true,null],"
            "\"\xC3\xA9\":500000000.0,\"\xF0\x9F\x98\x80\":NaN}");
  // xxhash.xxh3_128_hexdigest of the same library's Python package.
  EXPECT_EQ(Hash(R"({"b": 1, "a": [true]})"), "102e5afbde823db809103b51d3dc342d");
}

TEST(ContentHash, DoesNotSeeSpaceOrTheOrderOfKeys) {
  EXPECT_EQ(Hash(R"({"a": {"x": 1, "y": 2}, "b": []})"), Hash(R"({"b":[],"a":{"y":2, "x":1}})"));
  EXPECT_EQ(Hash(R"({"a": 5e8})"), Hash(R"({"a": 500000000.0})"));
  EXPECT_EQ(Hash(R"({"a": "\u00e9"})"), Hash("{\"a\": \"\xC3\xA9\"}"));
}

TEST(ContentHash, SeesTypesValuesAndTheOrderOfLists) {
  const char* kDifferent[] = {
      R"({"a": 1})",      R"({"a": 1.0})", R"({"a": true})",     R"({"a": "1"})",
      R"({"a": null})",   R"({"a": [1]})", R"({"a": {}})",       R"({})",
      R"({"a": -0.0})",   R"({"a": 0.0})", R"({"a": 0})",        R"({"a": [1, 2]})",
      R"({"a": [2, 1]})", R"({"a.b": 1})", R"({"a": {"b": 1}})", R"({"a": "NaN"})",
      R"({"a": NaN})",    R"([])",         R"({"a,\"b\"": 1})",  R"({"a": 1, "b": 1})"};
  for (const char* one : kDifferent) {
    for (const char* other : kDifferent) {
      EXPECT_EQ(Hash(one) == Hash(other), one == other) << one << " " << other;
    }
  }
}

}  // namespace
}  // namespace zerocast
