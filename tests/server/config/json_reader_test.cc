#include "server/config/json_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

#include "absl/strings/match.h"
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

TEST(JsonReader, SaysWhereTextStopsBeingJsonAndWhatItWants) {
  const auto what = [](absl::string_view text) {
    const auto violations = ViolationsOf(ReadJson(text, "c").status());
    EXPECT_EQ(violations.size(), 1u) << text;
    return violations.empty() ? "" : violations[0].description;
  };
  EXPECT_EQ(what(""), "is not JSON: line 1, column 1: expected a value, found the end of the text");
  EXPECT_EQ(what("{\n  \"\u00e9\": 1 x}"),
            "is not JSON: line 2, column 10: expected ',' or '}', found 'x'");
  EXPECT_EQ(what("[1 \u00e9]"),
            "is not JSON: line 1, column 4: expected ',' or ']', found '\u00e9'");
  EXPECT_EQ(what("{\"a\": 1,}"),
            "is not JSON: line 1, column 9: expected a key in '\"', found '}'");
  EXPECT_EQ(what("\"a\nb\""),
            "is not JSON: line 1, column 3: expected '\"' at the end of a string, "
            "found the control character 0x0a");
  EXPECT_EQ(what("{}]"), "is not JSON: line 1, column 3: expected the end of the text, found ']'");
  EXPECT_EQ(what("\xEF\xBB\xBF{}"), "is not JSON: it begins with a byte order mark");
}

// Whether nlohmann's reader takes the text, and means by it what ours does.
void ExpectAsNlohmann(const std::string& text) {
  using nlohmann::json;
  const auto ours = ReadJson(text, "config");
  const std::string again = ours.ok() ? WriteJson(ours->value) : "";
  if (absl::StrContains(again, "Infinity")) return;  // a number beyond a double
  const json theirs = json::parse(text, nullptr, /*allow_exceptions=*/false);
  ASSERT_EQ(ours.ok(), !theirs.is_discarded()) << text << "\n" << ours.status();
  if (!ours.ok()) return;
  ASSERT_EQ(json::parse(again), theirs) << text;
}

TEST(JsonReader, AgreesWithAnotherReaderOnDamagedTexts) {
  const std::string whole =
      R"( {"a": [1, -2.5e3, true, null, "x\"\u00e9\ud83d\ude00\n"], "b": {"c": 0, "": false},)"
      "\n\t\"a\u00e9\": 18446744073709551615, \"d\": [[], {}, 0.1, 1e-7, 12E+2]}";
  const std::string pieces[] = {"{",  "}",     "[",       "]",    ",",    ":",   "\"",  "\\",
                                "-",  "+",     ".",       "e",    "0",    "1",   "9",   " ",
                                "\n", "\\u00", "\\ud800", "\x01", "true", "nul", "\\/", "/"};
  const char* seed_text = std::getenv("ZC_SEED");
  const unsigned seed = seed_text != nullptr ? std::strtoul(seed_text, nullptr, 10) : 20240521;
  std::printf("ZC_SEED=%u\n", seed);
  std::mt19937 random(seed);
  int read = 0;
  for (int i = 0; i < 50'000; ++i) {
    std::string text = whole;
    for (unsigned changes = 1 + random() % 3; changes > 0; --changes) {
      const size_t at = random() % text.size(), size = random() % 4;
      text.replace(at, size, random() % 2 ? "" : pieces[random() % std::size(pieces)]);
    }
    ExpectAsNlohmann(text);
    if (HasFatalFailure()) return;
    read += ReadJson(text, "config").ok();
  }
  EXPECT_GT(read, 1000);
}

TEST(JsonReader, NamesThePathOfASyntaxError) {
  const auto document = ReadJson(R"({"a": {"b": [1, 2, x]}})", "config");
  ASSERT_EQ(ViolationsOf(document.status()).size(), 1u);
  EXPECT_EQ(ViolationsOf(document.status())[0].field, "config.a.b[2]");
  for (const auto& [text, field] : {std::pair<const char*, const char*>{"[1, x]", "config[1]"},
                                    {"[[x]]", "config[0][0]"},
                                    {R"([{"a": x}])", "config[0].a"},
                                    {R"(["\ud800"])", "config[0]"},
                                    {R"({"a": x})", "config.a"},
                                    {"x", "config"}}) {
    const auto refused = ReadJson(text, "config");
    ASSERT_EQ(ViolationsOf(refused.status()).size(), 1u) << text;
    EXPECT_EQ(ViolationsOf(refused.status())[0].field, field) << text;
  }
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
