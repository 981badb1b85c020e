#ifndef ZEROCAST_SERVER_CONVERSION_CATALOGUE_H_
#define ZEROCAST_SERVER_CONVERSION_CATALOGUE_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"
#include "server/conversion/rule.h"

namespace zerocast {

// A model within a model, as the release builds it by default.
struct CatalogueModule {
  std::string path;  // of the module
  std::string architecture;
  std::string model_type;
  std::string config;  // the dotted path of its own config; "": that of the model around it
};

// The models within a class of models.
struct CatalogueModel {
  std::string base_model_prefix;
  std::vector<CatalogueModule> modules;  // in the order of named_modules()
  // What it holds beside its base model (all, where it is one): paths of modules and tensors.
  std::vector<std::string> own;
};

// A rule table: every rule set of one Transformers release and what it is bound to.
struct Catalogue {
  Dialect dialect;
  std::map<std::string, std::vector<Rule>> sets;
  std::map<std::string, std::string> by_class;             // class -> set
  std::map<std::string, std::string> by_model_type;        // model type -> set
  std::vector<std::string> always_last;                    // sets that follow any other
  std::map<std::string, std::vector<Rule>> class_renames;  // class -> renames before its type's
  std::map<std::string, CatalogueModel> sub_models;        // class -> the models within
  std::map<std::string, std::string> auto_classes;         // model type -> class of that type
};

// Reads a rule table and proves it: every pattern compiles, every binding has its set.  Errors:
// INVALID_ARGUMENT naming the set and rule.
absl::StatusOr<Catalogue> ParseCatalogue(absl::string_view text);

// The `derived_from` and `semantics` of a rule table.  Errors: INVALID_ARGUMENT naming the field.
absl::StatusOr<Dialect> ParseDialect(const nlohmann::json& table);

// The releases of Transformers whose tables are built in, the default first.
inline constexpr absl::string_view kDialects[] = {"5.23.0", "5.1.0"};
inline constexpr absl::string_view kDefaultDialect = kDialects[0];

// The built-in table of a release (one of kDialects), read at the first call and kept for the
// life of the process.  Thread-safe.  Errors: INVALID_ARGUMENT for another release.
absl::StatusOr<const Catalogue*> BuiltInCatalogue(absl::string_view dialect);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONVERSION_CATALOGUE_H_
