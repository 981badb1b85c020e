#ifndef ZEROCAST_CLIENT_AGENT_HELP_FORMAT_H_
#define ZEROCAST_CLIENT_AGENT_HELP_FORMAT_H_

#include <CLI/CLI.hpp>
#include <memory>

namespace zerocast {

// Writes the help of a command in lines of at most 80 columns, whatever lines its descriptions
// have. Set it before subcommands are added: they take it over.
std::shared_ptr<CLI::FormatterBase> MakeHelpFormatter();

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_AGENT_HELP_FORMAT_H_
