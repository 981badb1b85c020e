#include "client/agent/numa.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "tests/temp_dir.h"

namespace zerocast {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<int> Members(const cpu_set_t& set) {
  std::vector<int> members;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) members.push_back(cpu);
  }
  return members;
}

TEST(Numa, ReadsListsOfProcessors) {
  EXPECT_THAT(Members(ParseCpuList("0-2,5,7-8\n")), ElementsAre(0, 1, 2, 5, 7, 8));
  EXPECT_THAT(Members(ParseCpuList("")), IsEmpty());
  EXPECT_THAT(Members(ParseCpuList("x,3-")), ElementsAre(3));
  EXPECT_THAT(Members(ParseCpuList("1022-5000")), ElementsAre(1022, 1023));
}

// What the kernel tells of two nodes with two processors each, and of one with memory alone.
class FakeNodes {
 public:
  FakeNodes() {
    Write("online", "0-1,3\n");
    Write("node0/cpulist", "0-1\n");
    Write("node1/cpulist", "2-3\n");
    Write("node3/cpulist", "\n");
  }
  const std::string& path() const { return dir_.path(); }

 private:
  void Write(const std::string& name, const std::string& text) {
    const std::filesystem::path path = dir_.File(name);
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  const TempDir dir_;
};

TEST(Numa, TellsTheProcessorsOfEachNodeThatMayBeUsed) {
  const FakeNodes machine;
  const auto all = NumaNodes(machine.path(), ParseCpuList("0-63"));
  ASSERT_EQ(all.size(), 2u);
  EXPECT_THAT(Members(all[0]), ElementsAre(0, 1));
  EXPECT_THAT(Members(all[1]), ElementsAre(2, 3));
  // A container on the second node.
  const auto some = NumaNodes(machine.path(), ParseCpuList("3"));
  ASSERT_EQ(some.size(), 1u);
  EXPECT_THAT(Members(some[0]), ElementsAre(3));
  EXPECT_THAT(NumaNodes(machine.path() + "/none", ParseCpuList("0")), IsEmpty());
}

TEST(Numa, TellsTheProcessorsOfOneNode) {
  const FakeNodes machine;
  EXPECT_THAT(Members(ProcessorsOfNumaNode(machine.path(), 1, ParseCpuList("0-63"))),
              ElementsAre(2, 3));
  EXPECT_THAT(Members(ProcessorsOfNumaNode(machine.path(), 1, ParseCpuList("0,3"))),
              ElementsAre(3));
  EXPECT_THAT(Members(ProcessorsOfNumaNode(machine.path(), 7, ParseCpuList("0-63"))), IsEmpty());
  EXPECT_THAT(Members(ProcessorsNear(-1)), IsEmpty());
}

std::vector<int> Allowed() {
  cpu_set_t allowed;
  return sched_getaffinity(0, sizeof(allowed), &allowed) == 0 ? Members(allowed)
                                                              : std::vector<int>{};
}

TEST(Numa, AScopeKeepsItsThreadAndThoseThatItStarts) {
  std::thread([] {
    const std::vector<int> before = Allowed();
    ASSERT_FALSE(before.empty());
    cpu_set_t one, none;
    CPU_ZERO(&one);
    CPU_ZERO(&none);
    CPU_SET(before.back(), &one);
    {
      const ProcessorScope scope(one);
      EXPECT_THAT(Allowed(), ElementsAre(before.back()));
      const ProcessorScope nothing(none);
      EXPECT_THAT(Allowed(), ElementsAre(before.back()));
      std::thread([&] {
        StayOnNumaNode(3);  // as a reading thread does
        EXPECT_THAT(Allowed(), ElementsAre(before.back()));
      }).join();
    }
    EXPECT_EQ(Allowed(), before);
  }).join();
}

TEST(Numa, AThreadKeepsToProcessorsThatItMayUse) {
  std::thread([] {
    cpu_set_t before, after;
    ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
    StayOnNumaNode(1);
    ASSERT_EQ(sched_getaffinity(0, sizeof(after), &after), 0);
    const auto nodes = NumaNodes("/sys/devices/system/node", before);
    EXPECT_EQ(Members(after), Members(nodes.size() < 2 ? before : nodes[1]));
  }).join();
}

}  // namespace
}  // namespace zerocast
