#ifndef ZEROCAST_TESTS_SERVER_CONFIG_DATA_FILE_H_
#define ZEROCAST_TESTS_SERVER_CONFIG_DATA_FILE_H_

#include <gtest/gtest.h>
#include <zlib.h>

#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/config/json_reader.h"
#include "tests/status_matchers.h"

namespace zerocast {

// The text of a file, compressed or not.  A relative name is under ZC_TEST_DATA.
inline std::string ReadDataFile(const std::string& name) {
  const char* data = std::getenv("ZC_TEST_DATA");
  const std::string path =
      absl::StartsWith(name, "/") ? name : absl::StrCat(data == nullptr ? "" : data, "/", name);
  gzFile file = gzopen(path.c_str(), "rb");
  EXPECT_NE(file, nullptr) << path;
  std::string text;
  if (file == nullptr) return text;
  char buffer[1 << 16];
  for (int n; (n = gzread(file, buffer, sizeof(buffer))) > 0;) text.append(buffer, n);
  gzclose(file);
  return text;
}

// The cases of a file, a JSON value a line: a name is under ZC_TEST_DATA/config, a path is taken as
// it is.  Lines end at a line feed only: values may hold other line ends.
inline std::vector<ConfigValue> ReadConfigCases(const std::string& name) {
  const std::string text =
      ReadDataFile(absl::StartsWith(name, "/") ? name : absl::StrCat("config/", name));
  std::vector<ConfigValue> lines;
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    auto document = ReadJson(line, "line");
    EXPECT_THAT(document, IsOk());
    if (document.ok()) lines.push_back(std::move(document->value));
  }
  return lines;
}

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_SERVER_CONFIG_DATA_FILE_H_
