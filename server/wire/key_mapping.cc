#include "server/wire/key_mapping.h"

#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

// Collects {"string": "string", ...} without building a tree: deep nesting is refused at its first
// bracket, and the order and repetition of keys is seen.
class KeyMappingReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<Rule> rules;
  std::string error;

  bool start_object(std::size_t) override {
    if (in_object_) return Refuse("must be a string");
    in_object_ = true;
    return true;
  }
  bool end_object() override { return true; }
  bool key(string_t& text) override {
    key_ = text;
    if (key_.empty()) return Refuse("must not be an empty pattern");
    if (!seen_.insert(key_).second) return Refuse("is there twice");
    return true;
  }
  bool string(string_t& text) override {
    if (!in_object_) return Refuse("");
    Rule rule;
    rule.kind = RuleKind::kRename;
    rule.from = {key_};
    rule.to = {text};
    rules.push_back(std::move(rule));
    return true;
  }
  bool start_array(std::size_t) override { return Refuse("must be a string"); }
  bool end_array() override { return true; }
  bool null() override { return Refuse("must be a string"); }
  bool boolean(bool) override { return Refuse("must be a string"); }
  bool number_integer(number_integer_t) override { return Refuse("must be a string"); }
  bool number_unsigned(number_unsigned_t) override { return Refuse("must be a string"); }
  bool number_float(number_float_t, const string_t&) override { return Refuse("must be a string"); }
  bool binary(binary_t&) override { return Refuse("must be a string"); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    error = absl::StrCat("is not JSON: error at byte ", position);
    return false;
  }

 private:
  bool Refuse(absl::string_view what) {
    error = in_object_ ? absl::StrCat("'", key_, "' ", what)
                       : "must be one JSON object of pattern to target";
    return false;
  }

  bool in_object_ = false;
  std::string key_;
  absl::flat_hash_set<std::string> seen_;
};

}  // namespace

absl::StatusOr<std::vector<Rule>> ParseKeyMapping(absl::string_view text) {
  if (text.empty()) return std::vector<Rule>();
  KeyMappingReader reader;
  if (!nlohmann::json::sax_parse(text.begin(), text.end(), &reader)) {
    return InvalidFields({{"key_mapping_json", reader.error}});
  }
  return std::move(reader.rules);
}

}  // namespace zerocast
