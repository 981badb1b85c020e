#include "client/agent/help_format.h"

#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace zerocast {
namespace {

constexpr size_t kColumns = 80;

// The words of `text` in lines of at most `width` columns; a longer word has a line of its own.
std::string Fill(absl::string_view text, size_t width) {
  std::string filled;
  size_t column = 0;
  for (const absl::string_view word :
       absl::StrSplit(text, absl::ByAnyChar(" \n"), absl::SkipEmpty())) {
    const bool fits = column + 1 + word.size() <= width;
    absl::StrAppend(&filled, column == 0 ? "" : fits ? " " : "\n", word);
    column = column > 0 && fits ? column + 1 + word.size() : word.size();
  }
  return filled;
}

std::string FillLine(const std::string& text) {
  return text.empty() ? text : absl::StrCat(Fill(text, kColumns), "\n");
}

class Formatter : public CLI::Formatter {
 public:
  std::string make_option_desc(const CLI::Option* option) const override {
    return Fill(option->get_description(), kColumns - get_column_width());
  }
  std::string make_subcommand(const CLI::App* command) const override {
    std::ostringstream out;
    CLI::detail::format_help(out, command->get_display_name(true),
                             Fill(command->get_description(), kColumns - get_column_width()),
                             get_column_width());
    return out.str();
  }
  std::string make_description(const CLI::App* command) const override {
    return FillLine(CLI::Formatter::make_description(command));
  }
  std::string make_footer(const CLI::App* command) const override {
    return FillLine(CLI::Formatter::make_footer(command));
  }
};

}  // namespace

std::shared_ptr<CLI::FormatterBase> MakeHelpFormatter() { return std::make_shared<Formatter>(); }

}  // namespace zerocast
