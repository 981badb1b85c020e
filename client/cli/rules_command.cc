#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "client/cli/command.h"
#include "client/cli/output.h"
#include "client/cli/rules_match.h"
#include "client/formats/file.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/conversion/catalogue.h"
#include "server/conversion/check_rules.h"
#include "server/conversion/convert.h"
#include "server/conversion/pattern.h"
#include "server/conversion/rule_json.h"
#include "server/wire/gzip.h"

namespace zerocast {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMaxFileBytes = int64_t{256} << 20;
constexpr int64_t kMaxUnpackedBytes = int64_t{1} << 30;

// Which table: one of the built-in ones, or a file.
struct TableFlags {
  std::string dialect, rules;

  void AddTo(CLI::App* command) {
    command->add_option("--dialect", dialect, "Transformers release: 5.23.0 or 5.1.0")
        ->type_name("VERSION");
    command->add_option("--rules", rules, "A rule table, JSON, instead of the built-in ones")
        ->type_name("FILE");
  }
};

absl::StatusOr<std::vector<Catalogue>> Tables(const TableFlags& flags) {
  std::vector<Catalogue> tables;
  if (!flags.rules.empty()) {
    ZC_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(flags.rules, kMaxFileBytes));
    absl::StatusOr<Catalogue> table = ParseCatalogue(text);
    if (!table.ok()) return Annotate(table.status(), flags.rules);
    tables.push_back(*std::move(table));
    return tables;
  }
  std::vector<std::string> dialects(std::begin(kDialects), std::end(kDialects));
  if (!flags.dialect.empty()) dialects = {flags.dialect};
  for (const std::string& dialect : dialects) {
    ZC_ASSIGN_OR_RETURN(const Catalogue* table, BuiltInCatalogue(dialect));
    tables.push_back(*table);
  }
  return tables;
}

std::vector<std::string> BoundTo(const std::map<std::string, std::string>& bindings,
                                 const std::string& set) {
  std::vector<std::string> names;
  for (const auto& [name, bound] : bindings) {
    if (bound == set) names.push_back(name);
  }
  return names;
}

absl::Status RunList(const GlobalOptions& global, const TableFlags& flags) {
  ZC_ASSIGN_OR_RETURN(const std::vector<Catalogue> tables, Tables(flags));
  Json document = {{"dialects", Json::array()}};
  for (const Catalogue& table : tables) {
    Json sets = Json::array();
    std::vector<std::vector<std::string>> rows = {{"rule set", "rules", "names"}};
    size_t num_rules = 0;
    for (const auto& [name, rules] : table.sets) {
      const auto classes = BoundTo(table.by_class, name);
      const auto types = BoundTo(table.by_model_type, name);
      num_rules += rules.size();
      sets.push_back(
          {{"name", name}, {"rules", rules.size()}, {"classes", classes}, {"model_types", types}});
      rows.push_back(
          {name, absl::StrCat(rules.size()), absl::StrCat(classes.size() + types.size())});
    }
    document["dialects"].push_back({{"version", table.dialect.version},
                                    {"rule_sets", std::move(sets)},
                                    {"always_last", table.always_last}});
    if (global.json()) continue;
    std::printf("%s: %zu rule sets, %zu rules; always last: %s\n\n%s\n",
                table.dialect.version.c_str(), table.sets.size(), num_rules,
                absl::StrJoin(table.always_last, ", ").c_str(), FormatTable(rows).c_str());
  }
  if (global.json()) PrintJson(document);
  return absl::OkStatus();
}

absl::StatusOr<Json> RuleDocument(const Rule& rule, const Dialect& dialect) {
  ZC_ASSIGN_OR_RETURN(const CompiledRule compiled, CompiledRule::Create(rule, dialect));
  return Json{{"written", RuleToJson(rule)},
              {"compiled",
               {{"sources", compiled.sources()},
                {"targets", compiled.targets()},
                {"expression", std::string(compiled.expression())}}}};
}

absl::Status RunShow(const TableFlags& flags, const std::string& name) {
  ZC_ASSIGN_OR_RETURN(const std::vector<Catalogue> tables, Tables(flags));
  Json document = Json::array();
  for (const Catalogue& table : tables) {
    std::string set = name;
    if (const auto bound = table.by_class.find(name); bound != table.by_class.end()) {
      set = bound->second;
    } else if (const auto typed = table.by_model_type.find(name);
               typed != table.by_model_type.end()) {
      set = typed->second;
    }
    const auto found = table.sets.find(set);
    const auto renames = table.class_renames.find(name);
    if (found == table.sets.end() && renames == table.class_renames.end()) continue;
    Json shown = {{"dialect", table.dialect.version}, {"name", name}};
    Json rules = Json::array();
    const auto add = [&](const std::vector<Rule>& list) -> absl::Status {
      for (const Rule& rule : list) {
        ZC_ASSIGN_OR_RETURN(Json one, RuleDocument(rule, table.dialect));
        rules.push_back(std::move(one));
      }
      return absl::OkStatus();
    };
    if (renames != table.class_renames.end()) ZC_RETURN_IF_ERROR(add(renames->second));
    if (found != table.sets.end()) {
      shown["rule_set"] = set;
      ZC_RETURN_IF_ERROR(add(found->second));
    }
    shown["rules"] = std::move(rules);
    document.push_back(std::move(shown));
  }
  if (document.empty()) {
    return WithReason(absl::NotFoundError(absl::StrCat("no rule set, class or model type '", name,
                                                       "' has rules; `rules list` names the sets")),
                      "NOT_FOUND");
  }
  PrintJson(document);
  return absl::OkStatus();
}

absl::Status RunCheck(const GlobalOptions& global, const TableFlags& flags,
                      const std::string& path) {
  ZC_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxFileBytes));
  const std::string dialect = flags.dialect.empty() ? std::string(kDefaultDialect) : flags.dialect;
  ZC_ASSIGN_OR_RETURN(const RulesCheck check, CheckRules(text, dialect));
  if (!check.errors.empty()) {
    std::vector<FieldViolation> violations;
    for (const RuleError& error : check.errors) {
      violations.push_back({absl::StrCat(path, ": ", error.path), error.message});
    }
    return InvalidFields(violations);
  }
  if (global.json()) {
    PrintJson({{"file", path}, {"rules", check.num_rules}, {"errors", Json::array()}});
  } else {
    std::printf("%s: %d rules, all well-formed\n", path.c_str(), check.num_rules);
  }
  return absl::OkStatus();
}

absl::Status RunMatch(const std::string& path) {
  ZC_ASSIGN_OR_RETURN(std::string text, ReadTextFile(path, kMaxFileBytes));
  ZC_ASSIGN_OR_RETURN(text, GunzipIfPacked(std::move(text), path, kMaxUnpackedBytes));
  // Lines end at a line feed only: values may hold other line ends.
  for (const absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    std::printf("%s\n", MatchLine(line).c_str());
  }
  if (std::fflush(stdout) != 0) return ErrnoStatus(errno, "write the answers to stdout");
  return absl::OkStatus();
}

}  // namespace

void AddRulesCommand(CLI::App* app, const GlobalOptions* global, Run* run) {
  CLI::App* rules = app->add_subcommand("rules", "Look at the conversion rules and try them");
  rules->require_subcommand(1);
  auto flags = std::make_shared<TableFlags>();
  auto argument = std::make_shared<std::string>();

  CLI::App* list = rules->add_subcommand("list", "The rule sets of each release");
  flags->AddTo(list);
  list->callback(
      [flags, global, run] { *run = [flags, global] { return RunList(*global, *flags); }; });

  CLI::App* show = rules->add_subcommand("show", "A set's rules, as written and as compiled, JSON");
  flags->AddTo(show);
  show->add_option("name", *argument, "Rule set, class or model type")
      ->required()
      ->type_name("NAME");
  show->callback(
      [flags, argument, run] { *run = [flags, argument] { return RunShow(*flags, *argument); }; });

  CLI::App* check = rules->add_subcommand(
      "check", "Validate every rule of a rule table, a list of rules or a model spec");
  flags->AddTo(check);
  check->add_option("file", *argument, "JSON")->required()->type_name("FILE");
  check->callback([flags, argument, global, run] {
    *run = [flags, argument, global] { return RunCheck(*global, *flags, *argument); };
  });

  CLI::App* match = rules->add_subcommand("match", "Put keys through the renaming, one a line");
  match->add_option("--batch", *argument, "Cases, JSON lines, perhaps gzip")
      ->required()
      ->type_name("FILE");
  match->callback([argument, run] { *run = [argument] { return RunMatch(*argument); }; });
}

}  // namespace zerocast
