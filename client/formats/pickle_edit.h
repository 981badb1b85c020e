#ifndef ZEROCAST_CLIENT_FORMATS_PICKLE_EDIT_H_
#define ZEROCAST_CLIENT_FORMATS_PICKLE_EDIT_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "client/formats/pickle.h"

namespace zerocast {

// Changes of a graph of values.  A dict is what PickleGraph::DictItems knows, a list is kList or
// kTuple; anything else in their place is left as it is.

// Copies what node `id` of `from` holds into `to`, and returns its node there: shared nodes stay
// shared, cycles stay cycles.  Texts are copied, so `from`, another graph, may go.  No recursion.
PickleId ImportPickle(const PickleGraph& from, PickleId id, PickleGraph* to);

// Sets the value of the text key `key`: where it stands, or behind all others.  Every entry of that
// key is changed.
void SetItem(PickleGraph* graph, PickleId dict, absl::string_view key, PickleId value);
// The same before the entry of key `before`, where there is one and `key` is new.
void InsertItem(PickleGraph* graph, PickleId dict, absl::string_view key, PickleId value,
                absl::string_view before);
void RemoveItem(PickleGraph* graph, PickleId dict, absl::string_view key);
// SetItem where the key is there.
void ReplaceItem(PickleGraph* graph, PickleId dict, absl::string_view key, PickleId value);

// New nodes.
PickleId AddDict(PickleGraph* graph,
                 const std::vector<std::pair<std::string, PickleId>>& entries = {});
// collections.OrderedDict.
PickleId AddOrderedDict(PickleGraph* graph,
                        const std::vector<std::pair<std::string, PickleId>>& entries);
PickleId AddIntegers(PickleGraph* graph, const std::vector<int64_t>& numbers);

}  // namespace zerocast

#endif  // ZEROCAST_CLIENT_FORMATS_PICKLE_EDIT_H_
