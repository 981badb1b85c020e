#ifndef ZEROCAST_SERVER_CONFIG_HIDDEN_SIZE_TABLE_H_
#define ZEROCAST_SERVER_CONFIG_HIDDEN_SIZE_TABLE_H_

#include <cstdint>

#include "absl/strings/string_view.h"

namespace zerocast {

// Where the config class of a model type keeps its hidden size.
struct HiddenSizeEntry {
  enum class Place {
    kOwn,      // hidden_size
    kOwnList,  // the largest of hidden_sizes
    kText,     // text_config.hidden_size
  };
  absl::string_view model_type;
  Place place;
  // The name that config.json has for it ("d_model"); empty: hidden_size itself.
  absl::string_view alias;
  // Of the class, which config.json may leave out.
  int64_t default_size;
};

// Null where the type is unknown or has none.
const HiddenSizeEntry* FindHiddenSizeEntry(absl::string_view model_type);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONFIG_HIDDEN_SIZE_TABLE_H_
