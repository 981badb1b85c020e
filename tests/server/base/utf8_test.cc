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

TEST(Utf8, AppendsWhatItDecodes) {
  int characters = 0;
  for (uint32_t code = 0; code <= 0x10FFFF; ++code) {
    if (code == 0xD800) code = 0xE000;  // surrogates are no characters
    std::string text;
    AppendUtf8(code, &text);
    uint32_t again = 0;
    ASSERT_EQ(DecodeUtf8(text, &again), text.size()) << code;
    ASSERT_EQ(again, code);
    ++characters;
  }
  EXPECT_EQ(characters, 0x110000 - 0x800);
}

TEST(Utf8, EscapesWhatATerminalWouldObey) {
  EXPECT_EQ(EscapeControls("a\x1b[31m\n\r\t\x7f b"), "a\\x1b[31m\\n\\r\\t\\x7f b");
  EXPECT_EQ(EscapeControls(absl::string_view("\0", 1)), "\\x00");
  EXPECT_EQ(EscapeControls("\u009b2J"), "\\xc2\\x9b2J");  // C1: begins a sequence in one character
  EXPECT_EQ(EscapeControls("\xFF\xCA"), "\\xff\\xca");
  EXPECT_EQ(EscapeControls("a\u00e9\u2028\U0001F600\u00a0\\"), "a\u00e9\u2028\U0001F600\u00a0\\");
  EXPECT_EQ(EscapeControls("a\nb\x1b", "\n"), "a\nb\\x1b");
  EXPECT_EQ(EscapeControls(""), "");
}

}  // namespace
}  // namespace zerocast
