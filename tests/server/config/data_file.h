#ifndef ZEROCAST_TESTS_SERVER_CONFIG_DATA_FILE_H_
#define ZEROCAST_TESTS_SERVER_CONFIG_DATA_FILE_H_

#include <gtest/gtest.h>
#include <zlib.h>

#include <cstdlib>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

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

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_SERVER_CONFIG_DATA_FILE_H_
