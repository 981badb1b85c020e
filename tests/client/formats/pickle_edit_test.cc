#include "client/formats/pickle_edit.h"

#include <string>

#include "client/formats/pickle_writer.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using namespace std::string_literals;

// The pickle of what `dict` holds, as text that a test can compare.
std::string Keys(const PickleGraph& graph, PickleId dict) {
  std::string keys;
  const std::vector<PickleId>& items = *graph.DictItems(dict);
  for (size_t k = 0; k < items.size(); k += 2) {
    keys += std::string(graph.node(items[k]).text) + "=" +
            std::to_string(graph.node(items[k + 1]).integer) + " ";
  }
  return keys;
}

TEST(PickleEdit, SetsEntriesWhereTheyStandOrBehindAllOthers) {
  PickleGraph graph;
  for (const bool ordered : {false, true}) {
    const std::vector<std::pair<std::string, PickleId>> entries = {{"a", graph.AddInteger(1)},
                                                                   {"b", graph.AddInteger(2)}};
    const PickleId dict = ordered ? AddOrderedDict(&graph, entries) : AddDict(&graph, entries);
    SetItem(&graph, dict, "a", graph.AddInteger(3));
    SetItem(&graph, dict, "c", graph.AddInteger(4));
    EXPECT_EQ(Keys(graph, dict), "a=3 b=2 c=4 ");
    InsertItem(&graph, dict, "d", graph.AddInteger(5), "b");
    InsertItem(&graph, dict, "e", graph.AddInteger(6), "no such key");
    InsertItem(&graph, dict, "c", graph.AddInteger(7), "a");
    EXPECT_EQ(Keys(graph, dict), "a=3 d=5 b=2 c=7 e=6 ");
    ReplaceItem(&graph, dict, "b", graph.AddInteger(8));
    ReplaceItem(&graph, dict, "f", graph.AddInteger(9));
    RemoveItem(&graph, dict, "a");
    RemoveItem(&graph, dict, "e");
    RemoveItem(&graph, dict, "g");
    EXPECT_EQ(Keys(graph, dict), "d=5 b=8 c=7 ");
  }
}

TEST(PickleEdit, ChangesEveryEntryOfAKeyThatComesTwice) {
  PickleGraph graph;
  const PickleId dict = AddDict(
      &graph, {{"a", graph.AddInteger(1)}, {"b", graph.AddInteger(2)}, {"a", graph.AddInteger(3)}});
  SetItem(&graph, dict, "a", graph.AddInteger(4));
  EXPECT_EQ(Keys(graph, dict), "a=4 b=2 a=4 ");
  RemoveItem(&graph, dict, "a");
  EXPECT_EQ(Keys(graph, dict), "b=2 ");
}

TEST(PickleEdit, LeavesWhatIsNoDict) {
  PickleGraph graph;
  const PickleId list = AddIntegers(&graph, {1, 2, 3});
  SetItem(&graph, list, "a", graph.AddNone());
  RemoveItem(&graph, list, "a");
  ReplaceItem(&graph, kNoValue, "a", graph.AddNone());
  EXPECT_EQ(graph.node(list).items.size(), 3u);
}

TEST(PickleEdit, ImportsSharedNodesCyclesAndObjects) {
  // Lists in lists, one of them shared, one that holds itself; an object with items and a state.
  const std::string stream =
      "\x80\x02]q\x00(K\x01]q\x01h\x01h\x00"
      "ccollections\nOrderedDict\nq\x02)Rq\x03(K\x01G\x3f\xf8\x00\x00\x00\x00\x00\x00u}q\x04"
      "X\x01\x00\x00\x00kq\x05h\x01sb\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x00\x01"
      "e."s;
  std::string before, after;
  PickleGraph to;
  to.AddText("something that is there already");
  {
    PickleGraph from;
    ZC_ASSERT_OK_AND_ASSIGN(const PickleId root, ReadPickle(from.Own(stream), "a", 0, &from));
    ZC_ASSERT_OK_AND_ASSIGN(before, WritePickle(from, root));
    to.set_root(ImportPickle(from, root, &to));
  }
  // The first graph, whose texts it might have kept, is gone.
  ZC_ASSERT_OK_AND_ASSIGN(after, WritePickle(to, to.root()));
  EXPECT_EQ(after, before);
  EXPECT_EQ(ImportPickle(PickleGraph(), kNoValue, &to), kNoValue);
}

}  // namespace
}  // namespace zerocast
