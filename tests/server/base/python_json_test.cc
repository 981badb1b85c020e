#include "server/base/python_json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace zerocast {
namespace {

using nlohmann::json;

TEST(PythonJson, ConstantsBecomeNull) {
  EXPECT_EQ(json::parse(NullForPythonConstants(
                R"({"time_step_limit": [0.0, Infinity], "a": -Infinity, "b": NaN, "c": [1]})")),
            json::parse(R"({"time_step_limit": [0.0, null], "a": null, "b": null, "c": [1]})"));
}

TEST(PythonJson, StringsStay) {
  for (const char* text : {R"({"NaN": "Infinity", "\"NaN": "\\", "x": "-Infinity\""})", R"("\\")",
                           R"("a\\\"NaN")", "{}", ""}) {
    EXPECT_EQ(NullForPythonConstants(text), text);
  }
}

TEST(PythonJson, WhatIsNoJsonStaysNone) {
  for (const char* text : {"1NaN", "NaN1", "NaNx", "nan", "--Infinity", "Infinit", "{\"a\": \"NaN",
                           "\"\\", "NaN NaN", "inf"}) {
    EXPECT_FALSE(json::accept(NullForPythonConstants(text))) << text;
  }
}

}  // namespace
}  // namespace zerocast
