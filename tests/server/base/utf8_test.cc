#include "server/base/utf8.h"

#include <gtest/gtest.h>

namespace zerocast {
namespace {

TEST(Utf8, IsToldFromOtherBytes) {
  EXPECT_TRUE(IsValidUtf8("a\u00e9\u2028\U0001F600"));
  EXPECT_TRUE(IsValidUtf8(""));
  for (const char* text : {"\xFF", "a\xC3", "\xED\xA0\x80", "\xC0\x80", "\xF4\x90\x80\x80"}) {
    EXPECT_FALSE(IsValidUtf8(text));
  }
}

}  // namespace
}  // namespace zerocast
