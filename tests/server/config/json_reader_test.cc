#include "server/config/json_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "server/base/errors.h"
#include "server/config/config_source.h"
#include "server/config/python_error.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ConfigValue Read(absl::string_view text) {
  const auto document = ReadJson(text, "config");
  EXPECT_THAT(document, IsOk()) << text;
  return document.ok() ? document->value : ConfigValue("failed");
}

std::string Again(absl::string_view text) { return WriteJson(Read(text)); }

TEST(JsonReader, KeepsKeyOrderAndTypes) {
  EXPECT_EQ(Again(R"({"z":1,"a":[true,null,1.0,"x"],"m":{}})"),
            R"({"z": 1, "a": [true, null, 1.0, "x"], "m": {}})");
}

TEST(JsonReader, TellsFloatsFromIntegers) {
  EXPECT_EQ(Again("5e8"), "500000000.0");
  EXPECT_NE(Read("5e8").real(), nullptr);
  EXPECT_NE(Read("500000000").integer(), nullptr);
  EXPECT_EQ(Again("[-0, -0.0]"), "[0, -0.0]");
}

TEST(JsonReader, KeepsIntegersOfAnySize) {
  const std::string text =
      "[9223372036854775807, 9223372036854775808, 18446744073709551615, "
      "18446744073709551616, -9223372036854775809]";
  EXPECT_EQ(Again(text), text);
  const std::string digits(4300, '7');
  EXPECT_EQ(Again("{\"a\": " + digits + "}"), "{\"a\": " + digits + "}");
  EXPECT_THAT(ReadJson(digits + "7", "config"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("4301 digits")));
}

TEST(JsonReader, ReadsWhatPythonReadsBeyondJson) {
  EXPECT_EQ(Again(R"([NaN,Infinity, -Infinity, 1e400, -1E400, 1e-400, 7])"),
            "[NaN, Infinity, -Infinity, Infinity, -Infinity, 0.0, 7]");
  EXPECT_EQ(Again("NaN"), "NaN");
  EXPECT_EQ(Again(R"({"NaN": "Infinity \" NaN"})"), R"({"NaN": "Infinity \" NaN"})");
}

TEST(JsonReader, ReadsEscapes) {
  EXPECT_EQ(*Read(R"("\ud83d\ude00\u0041\n\\\"")").text(),
            "\xF0\x9F\x98\x80"
            "A\n\\\"");
}

TEST(JsonReader, OfADuplicateKeyTheLastValueStaysAtTheFirstPlace) {
  const auto document = ReadJson(R"({"a":1,"b":{"c":1,"d":2,"c":3},"a":4})", "config");
  ASSERT_THAT(document, IsOk());
  EXPECT_EQ(WriteJson(document->value), R"({"a": 4, "b": {"c": 3, "d": 2}})");
  EXPECT_THAT(document->duplicate_keys, ElementsAre("b.c", "a"));
}

class RefusedJson : public ::testing::TestWithParam<std::string> {};

TEST_P(RefusedJson, IsASyntaxError) {
  const auto document = ReadJson(GetParam(), "config");
  EXPECT_THAT(document, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("is not JSON")));
  EXPECT_TRUE(IsJsonSyntaxError(document.status()));
}

INSTANTIATE_TEST_SUITE_P(Texts, RefusedJson,
                         ::testing::Values("", " ", "{", "[1,]", "{\"a\":1,}", "{'a': 1}", "nan",
                                           "+1", "01", "1.", ".5", "1e", "-", "-NaN", "NaNx",
                                           "1NaN", "NaN1", "NaN Infinity", "infinity", "01e400",
                                           "\"a", "\"\\", "\"\\u12", "\"\x01\"", "{\"a\" 1}",
                                           "{} {}", "tru", "/* */ 1", "\xEF\xBB\xBF{}",
                                           std::string("{}\0", 3), std::string("{}\0x", 4),
                                           "\xC3\xA9"));

TEST(JsonReader, NamesThePathOfASyntaxError) {
  const auto document = ReadJson(R"({"a": {"b": [1, 2, x]}})", "config");
  ASSERT_EQ(ViolationsOf(document.status()).size(), 1u);
  EXPECT_EQ(ViolationsOf(document.status())[0].field, "config.a.b[2]");
}

TEST(JsonReader, RefusesBadUtf8EverywhereAndSaysSo) {
  for (const char* text : {"\"\xFF\"", "\"\xC0\x80\"", "\"\xED\xA0\x80\"", "\"\xF4\x90\x80\x80\"",
                           "{}\x80", "\"\xE2\x82"}) {
    const auto document = ReadJson(text, "config");
    EXPECT_THAT(document, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("UTF-8")));
    EXPECT_FALSE(IsJsonSyntaxError(document.status()));
  }
}

TEST(JsonReader, RefusesHalfASurrogatePair) {
  for (const char* text :
       {R"("\ud800")", R"("\udc00")", R"({"\ud800\u0041": 1})", R"("\ud800\ud800\udc00")"}) {
    EXPECT_THAT(ReadJson(text, "config"),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("surrogate")));
  }
  EXPECT_THAT(ReadJson(R"("\\ud800")", "config"), IsOk());
}

TEST(JsonReader, LimitsDepth) {
  const auto nested = [](size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  EXPECT_THAT(ReadJson(nested(200), "config"), IsOk());
  for (const std::string& text : {nested(201), std::string(200000, '['), nested(200000)}) {
    const auto document = ReadJson(text, "config");
    EXPECT_THAT(document, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("200 levels")));
    EXPECT_FALSE(IsJsonSyntaxError(document.status()));
  }
}

TEST(JsonReader, ListsDuplicateKeysUpToSomeBytes) {
  const std::string key(40'000, 'k');
  const auto document =
      ReadJson(absl::StrCat("{\"", key, "\": {\"a\": 1, \"a\": 2, \"b\": 1, \"b\": 2}}"), "test");
  ASSERT_THAT(document, IsOk());
  EXPECT_THAT(document->duplicate_keys, ::testing::ElementsAre(key + ".a"));
}

TEST(JsonReader, LimitsSize) {
  const std::string text = "\"" + std::string(size_t{1} << 20, 'x') + "\"";
  EXPECT_THAT(ReadJson(text, "config"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("1048578 bytes")));
}

TEST(JsonReader, ManyKeysTakeNoQuadraticTime) {
  std::string text = "{\"k\": 0";
  for (int i = 0; i < 70000; ++i) text += ", \"" + std::to_string(i) + "\": 1";
  const auto document = ReadJson(text + "}", "config");
  ASSERT_THAT(document, IsOk());
  EXPECT_EQ(document->value.object()->size(), 70001u);
}

TEST(ConfigText, IsJsonOrUrlSafeBase64) {
  const auto value = [](absl::string_view text) {
    const auto document = ReadConfigText(text);
    EXPECT_THAT(document, IsOk()) << text;
    return document.ok() ? WriteJson(document->value) : "";
  };
  EXPECT_EQ(value(R"({"a": 1})"), R"({"a": 1})");
  EXPECT_EQ(value("eyJ6ZXJvX29wdGltaXph\ndGlvbiI6IHsic3RhZ2UiOiAzfX0="),
            R"({"zero_optimization": {"stage": 3}})");
  EXPECT_EQ(value("eyJrIjogIj4_Pz4_In0="), R"({"k": ">??>?"})");
  // Digits alone are JSON.
  EXPECT_EQ(value("1234"), "1234");
}

TEST(ConfigText, QuotesWhatItCannotRead) {
  for (const char* text : {"", "{'a': 3}", "eyJhIjogMX", "no such file.json", "\xC3\xA9"}) {
    const auto document = ReadConfigText(text);
    ASSERT_FALSE(document.ok()) << text;
    EXPECT_EQ(PythonErrorType(document.status()), "ValueError");
    EXPECT_EQ(
        document.status().message(),
        std::string("Expected a string path to an existing deepspeed config, or a dictionary, "
                    "or a base64 encoded string. Received: ") +
            text);
  }
}

TEST(ConfigText, LimitsAreNotPythonErrors) {
  const auto document = ReadConfigText(std::string(500, '['));
  EXPECT_THAT(document, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("levels")));
  EXPECT_EQ(PythonErrorType(document.status()), "");
}

TEST(Base64, DecodesAsBinasciiDoes) {
  std::string out;
  EXPECT_TRUE(DecodeUrlSafeBase64("YWI=", &out));
  EXPECT_EQ(out, "ab");
  EXPECT_TRUE(DecodeUrlSafeBase64("Y W!I=", &out));
  EXPECT_EQ(out, "ab");
  EXPECT_TRUE(DecodeUrlSafeBase64("YQ==YWI=", &out));
  EXPECT_EQ(out, "a");
  EXPECT_FALSE(DecodeUrlSafeBase64("YQ==\xC3\xA9", &out));
  EXPECT_TRUE(DecodeUrlSafeBase64("=YWJj", &out));
  EXPECT_EQ(out, "abc");
  EXPECT_TRUE(DecodeUrlSafeBase64("-_+/", &out));
  EXPECT_EQ(out, "\xFB\xFF\xBF");
  EXPECT_FALSE(DecodeUrlSafeBase64("YWI", &out));
  EXPECT_FALSE(DecodeUrlSafeBase64("YQ=", &out));
  EXPECT_FALSE(DecodeUrlSafeBase64("Y", &out));
  EXPECT_FALSE(DecodeUrlSafeBase64("YW\xC3\xA9I=", &out));
}

}  // namespace
}  // namespace zerocast
