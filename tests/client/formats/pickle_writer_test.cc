#include "client/formats/pickle_writer.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/status_matchers.h"

namespace zerocast {
namespace {

using namespace std::string_literals;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string Written(const std::string& stream) {
  PickleGraph graph;
  const auto root = ReadPickle(graph.Own(stream), "a", 0, &graph);
  if (!root.ok()) return std::string(root.status().message());
  const auto written = WritePickle(graph, *root);
  return written.ok() ? *written : std::string(written.status().message());
}

// CPython's own pickles of protocol 2 come out byte for byte where they hold nothing that is put in
// another order.
TEST(PickleWriter, WritesWhatItRead) {
  for (const std::string& stream :
       {"\x80\x02]q\x00("
        "K\x01M\x00\x01J\xFF\xFF\xFF\xFF\x8a\x05\x00\x00\x00\x00\x01NG\x3f\xf8\x00\x00\x00\x00\x00"
        "\x00\x88\x89"
        "e."s,
        "\x80\x02}q\x00(X\x01\x00\x00\x00kq\x01K\x01X\x01\x00\x00\x00lq\x02h\x01u."s,
        "\x80\x02]q\x00(h\x00"
        "e."s,
        "\x80\x02"
        "ccollections\nOrderedDict\nq\x00)Rq\x01(K\x01K\x02u}q\x02(K\x03K\x04ub."s}) {
    EXPECT_EQ(Written(stream).size(), Written(Written(stream)).size());
    EXPECT_EQ(Written(Written(stream)), Written(stream));
  }
  const std::string list =
      "\x80\x02]q\x00(h\x00"
      "e."s;
  EXPECT_EQ(Written(list), list);
  const std::string dict =
      "\x80\x02}q\x00(X\x01\x00\x00\x00kq\x01K\x01X\x01\x00\x00\x00lq\x02h\x01u."s;
  EXPECT_EQ(Written(dict), dict);
  const std::string call =
      "\x80\x02"
      "ccollections\nOrderedDict\nq\x00)Rq\x01(K\x01K\x02u}q\x02(K\x03K\x04ub."s;
  EXPECT_EQ(Written(call), call);
}

TEST(PickleWriter, WritesSharedTuplesOnce) {
  EXPECT_EQ(Written("\x80\x02(N)))t."), "\x80\x02(N)))tq\x00."s);
  EXPECT_EQ(Written("\x80\x02N\x85q\x00h\x00\x86."s), "\x80\x02((Ntq\x00h\x00tq\x01."s);
}

TEST(PickleWriter, KeepsCyclesThroughTuplesAndObjects) {
  // t = ([t],): the tuple is begun, met again in its list, and made there.
  const std::string tuple =
      "\x80\x02]q\x00h\x00\x85q\x01"
      "a0h\x01."s;
  PickleGraph graph;
  ZC_ASSERT_OK_AND_ASSIGN(const PickleId root, ReadPickle(Written(tuple), "a", 0, &graph));
  const PickleNode& top = graph.node(root);
  ASSERT_EQ(top.kind, PickleKind::kTuple);
  ASSERT_EQ(top.items.size(), 1u);
  EXPECT_EQ(graph.node(top.items[0]).items, std::vector<PickleId>{root});
  // An object whose argument is a list that holds it.
  const std::string object =
      "\x80\x02]q\x00"
      "cm\nC\nh\x00\x85Rq\x01"
      "a0h\x01."s;
  PickleGraph second;
  ZC_ASSERT_OK_AND_ASSIGN(const PickleId made, ReadPickle(Written(object), "a", 0, &second));
  const PickleNode& arguments = second.node(second.node(made).call->arguments);
  EXPECT_EQ(second.node(arguments.items[0]).items, std::vector<PickleId>{made});
}

TEST(PickleWriter, WritesDeeplyNestedValuesWithoutRecursion) {
  const std::string lists =
      "\x80\x02" + std::string(200'000, ']') + std::string(199'999, 'a') + ".";
  const std::string once = Written(lists);
  EXPECT_GT(once.size(), 400'000u);
  EXPECT_EQ(Written(once), once);
  const std::string tuples = "\x80\x02N" + std::string(200'000, '\x85') + ".";
  EXPECT_EQ(Written(Written(tuples)), Written(tuples));
}

TEST(PickleWriter, WritesLargeContainersInBatches) {
  std::string stream = "\x80\x02](";
  for (int k = 0; k < 2500; ++k) stream += "N";
  const std::string written = Written(stream + "e.");
  EXPECT_EQ(std::count(written.begin(), written.end(), 'e'), 3);
  EXPECT_EQ(std::count(written.begin(), written.end(), 'N'), 2500);
}

TEST(PickleWriter, WritesNamesInsideOfClassesAsProtocol4) {
  const std::string written = Written(
      "\x80\x04\x8c\x01m\x8c\x03"
      "A.B\x93)R."s);
  EXPECT_THAT(written, StartsWith("\x80\x04"));
  EXPECT_THAT(written, HasSubstr("\x93"));
  // Only what the root holds counts.
  EXPECT_THAT(Written("\x80\x04\x8c\x01m\x8c\x03"
                      "A.B\x93"
                      "0N."s),
              StartsWith("\x80\x02"));
  EXPECT_THAT(Written("\x80\x04\x8c\x01m\x8c\x01"
                      "A\x93."s),
              StartsWith("\x80\x02"));
}

TEST(PickleWriter, RefusesASetThatHoldsItself) {
  EXPECT_THAT(Written("\x80\x04\x8fq\x00(h\x00\x85\x90."s), HasSubstr("holds itself"));
}

TEST(PickleWriter, RefusesMoreThanItsLimit) {
  PickleGraph graph;
  const PickleId text = graph.AddText(std::string(100, 'x'));
  EXPECT_THAT(WritePickle(graph, text, 50),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("more than 50 bytes")));
  EXPECT_THAT(WritePickle(graph, 7),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("node 7")));
}

}  // namespace
}  // namespace zerocast
