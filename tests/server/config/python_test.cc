#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "server/config/json_reader.h"
#include "server/config/python_error.h"
#include "server/config/python_format.h"
#include "server/config/python_number.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

ConfigValue Read(absl::string_view text) {
  const auto document = ReadJson(text, "test");
  EXPECT_THAT(document, IsOk()) << text;
  return document.ok() ? document->value : ConfigValue();
}

struct Printed {
  const char* json;
  const char* python;
};

class PythonRepr_ : public ::testing::TestWithParam<Printed> {};

TEST_P(PythonRepr_, IsCPythons) { EXPECT_EQ(PythonRepr(Read(GetParam().json)), GetParam().python); }

// The right column is what CPython 3.11 prints for repr(json.loads(left)).
INSTANTIATE_TEST_SUITE_P(
    Values, PythonRepr_,
    ::testing::Values(
        Printed{"null", "None"}, Printed{"true", "True"}, Printed{"false", "False"},
        Printed{"0.00005", "5e-05"}, Printed{"0.00001", "1e-05"}, Printed{"0.0001", "0.0001"},
        Printed{"0.00012345", "0.00012345"}, Printed{"1.0", "1.0"}, Printed{"-0.0", "-0.0"},
        Printed{"5e8", "500000000.0"}, Printed{"1e15", "1000000000000000.0"},
        Printed{"1e16", "1e+16"}, Printed{"1e22", "1e+22"}, Printed{"1.5e300", "1.5e+300"},
        Printed{"123456789012345680.0", "1.2345678901234568e+17"},
        Printed{"9007199254740993.0", "9007199254740992.0"}, Printed{"5e-324", "5e-324"},
        Printed{"2.2250738585072014e-308", "2.2250738585072014e-308"},
        Printed{"1.7976931348623157e308", "1.7976931348623157e+308"},
        Printed{"0.30000000000000004", "0.30000000000000004"}, Printed{"123456.789", "123456.789"},
        Printed{"NaN", "nan"}, Printed{"-Infinity", "-inf"},
        Printed{"100000000000000000000", "100000000000000000000"},
        Printed{"[0.9, 0.999]", "[0.9, 0.999]"}, Printed{"[]", "[]"}, Printed{"{}", "{}"},
        Printed{R"({"x": [1, null, true, "q'uote"], "y": {}})",
                R"({'x': [1, None, True, "q'uote"], 'y': {}})"},
        Printed{R"("a'b\"c")", R"('a\'b"c')"}, Printed{R"("a\"b")", R"('a"b')"},
        Printed{R"("\\\n\r\t\u0000\u001f\u007f")", R"('\\\n\r\t\x00\x1f\x7f')"},
        Printed{R"("\u0085\u00a0\u00ad\u00e9")", "'\\x85\\xa0\\xad\xC3\xA9'"},
        Printed{R"("\u2028\u3000\u200b\ufeff\ue000")", R"('\u2028\u3000\u200b\ufeff\ue000')"},
        Printed{R"("\u6f22\u0301\ud83d\ude00")", "'\xE6\xBC\xA2\xCC\x81\xF0\x9F\x98\x80'"},
        Printed{R"("\udb40\udc01\udbff\udfff")", R"('\U000e0001\U0010ffff')"}));

TEST(PythonStr, LeavesAStringAsItIs) {
  EXPECT_EQ(PythonStr(ConfigValue("a'b\n")), "a'b\n");
  EXPECT_EQ(PythonStr(Read(R"(["a"])")), "['a']");
}

// Whatever is printed reads back to the same bits.
TEST(PythonRepr, RoundTripsRandomDoubles) {
  uint64_t state = 20260101;
  for (int i = 0; i < 20000; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const uint64_t bits = state ^ (state >> 29);
    double value;
    std::memcpy(&value, &bits, sizeof(value));
    if (!std::isfinite(value)) continue;
    const std::string text = PythonRepr(ConfigValue(value));
    EXPECT_EQ(Read(text), ConfigValue(value)) << text;
  }
}

TEST(PythonEqual, ComparesAsPython) {
  const auto equal = [](const char* a, const char* b) { return PythonEqual(Read(a), Read(b)); };
  EXPECT_TRUE(equal("1", "true"));
  EXPECT_TRUE(equal("1", "1.0"));
  EXPECT_TRUE(equal("false", "0.0"));
  EXPECT_TRUE(equal("-0.0", "0"));
  EXPECT_TRUE(equal("[1, [true]]", "[1.0, [1]]"));
  EXPECT_TRUE(equal(R"({"a": 1, "b": 2})", R"({"b": 2.0, "a": true})"));
  EXPECT_TRUE(equal("100000000000000000000", "1e20"));
  EXPECT_FALSE(equal("9007199254740993", "9007199254740992.0"));
  EXPECT_FALSE(equal("NaN", "NaN"));
  EXPECT_FALSE(equal("\"5e-5\"", "5e-5"));
  EXPECT_FALSE(equal("null", "false"));
  EXPECT_FALSE(equal("null", "0"));
  EXPECT_FALSE(equal("[]", "{}"));
  EXPECT_FALSE(equal("[1]", "[1, 2]"));
  EXPECT_FALSE(equal(R"({"a": 1})", R"({"b": 1})"));
  EXPECT_FALSE(equal("2", "true"));
}

TEST(PythonTruth, OfEveryType) {
  for (const char* yes : {"true", "1", "-1", "0.5", "NaN", "\"auto\"", "\"false\"", "[0]",
                          R"({"a": null})", "100000000000000000000"}) {
    EXPECT_TRUE(PythonTruth(Read(yes))) << yes;
  }
  for (const char* no : {"null", "false", "0", "-0", "0.0", "-0.0", "\"\"", "[]", "{}"}) {
    EXPECT_FALSE(PythonTruth(Read(no))) << no;
  }
}

TEST(PythonCompare, IsExactBetweenIntegersAndFloats) {
  const auto compare = [](const char* a, const char* b) { return PythonCompare(Read(a), Read(b)); };
  EXPECT_EQ(compare("9007199254740993", "9007199254740992.0"), PythonOrder::kGreater);
  EXPECT_EQ(compare("1", "1.5"), PythonOrder::kLess);
  EXPECT_EQ(compare("1.5", "1"), PythonOrder::kGreater);
  EXPECT_EQ(compare("-1", "-1.5"), PythonOrder::kGreater);
  EXPECT_EQ(compare("-20", "-3"), PythonOrder::kLess);
  EXPECT_EQ(compare("-3", "20"), PythonOrder::kLess);
  EXPECT_EQ(compare("20", "3"), PythonOrder::kGreater);
  EXPECT_EQ(compare("1", "Infinity"), PythonOrder::kLess);
  EXPECT_EQ(compare("1", "NaN"), PythonOrder::kUnordered);
}

TEST(PythonMultiply, IsExactForIntegersOfAnySize) {
  const auto product = [](const char* a, const char* b) {
    const auto result = PythonMultiply(Read(a), Read(b));
    return result.ok() ? WriteJson(*result) : std::string(result.status().message());
  };
  EXPECT_EQ(product("10000000000", "10000000000"), "100000000000000000000");
  EXPECT_EQ(product("-999999999999999999999", "999999999999999999999"),
            "-999999999999999999998000000000000000000001");
  EXPECT_EQ(product("-8", "-8"), "64");
  EXPECT_EQ(product("-8", "0"), "0");
  EXPECT_EQ(product("true", "true"), "1");
  EXPECT_EQ(product("64.0", "64"), "4096.0");
  EXPECT_EQ(product("\"64\"", "\"64\""), "can't multiply sequence by non-int of type 'str'");
  EXPECT_EQ(product("[8]", "[8]"), "can't multiply sequence by non-int of type 'list'");
  EXPECT_EQ(product("{}", "{}"), "unsupported operand type(s) for *: 'dict' and 'dict'");
  EXPECT_EQ(product("null", "1"), "unsupported operand type(s) for *: 'NoneType' and 'int'");
  EXPECT_EQ(product(("1" + std::string(400, '0')).c_str(), "0.9"),
            "int too large to convert to float");
}

TEST(PythonInt, TruncatesAndCeils) {
  EXPECT_EQ(WriteJson(*PythonInt(Read("-2.7"))), "-2");
  EXPECT_EQ(WriteJson(*PythonInt(Read("true"))), "1");
  EXPECT_EQ(WriteJson(*PythonInt(Read("9e19"))), "90000000000000000000");
  EXPECT_EQ(WriteJson(*PythonInt(Read("1e23"))), "99999999999999991611392");
  EXPECT_EQ(WriteJson(*PythonCeil(Read("-0.0"))), "0");
  EXPECT_EQ(WriteJson(*PythonCeil(Read("7.000000000000001"))), "8");
  EXPECT_EQ(PythonErrorType(PythonInt(Read("NaN")).status()), "ValueError");
  EXPECT_EQ(PythonErrorType(PythonCeil(Read("Infinity")).status()), "OverflowError");
}

}  // namespace
}  // namespace zerocast
