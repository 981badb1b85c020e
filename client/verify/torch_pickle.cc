#include "client/verify/torch_pickle.h"

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/verify/open_file.h"
#include "kernels/base/status_macros.h"

namespace zerocast::verify {
namespace {

using Kind = PickledValue::Kind;

class Unpickler {
 public:
  Unpickler(absl::string_view path, absl::string_view stream, size_t at, PickledValues* values)
      : path_(path), stream_(stream), at_(at), values_(*values) {}

  absl::StatusOr<int> Run() {
    while (true) {
      opcode_at_ = at_;
      const char opcode = static_cast<char>(Number(1));
      if (opcode == '.') break;
      Step(opcode);
      if (!problem_.empty()) {
        return Corrupt(path_, absl::StrCat("pickle opcode ", static_cast<int>(opcode), " at byte ",
                                           opcode_at_, ": ", problem_));
      }
    }
    const int result = Pop();
    if (!problem_.empty()) return Corrupt(path_, absl::StrCat("pickle: ", problem_));
    return result;
  }
  size_t at() const { return at_; }

 private:
  static constexpr int kMark = -1;

  void Fail(absl::string_view problem) {
    if (problem_.empty()) problem_ = std::string(problem);
  }
  absl::string_view Take(uint64_t count) {
    if (count > stream_.size() - at_) {
      Fail("the pickle ends early");
      at_ = stream_.size();
      return {};
    }
    const absl::string_view taken = stream_.substr(at_, count);
    at_ += count;
    return taken;
  }
  // The next `count` bytes as a number without a sign, least first; 0 at the end.
  uint64_t Number(size_t count) {
    uint64_t number = 0;
    const absl::string_view bytes = Take(count);
    for (size_t k = bytes.size(); k > 0; --k) {
      number = number * 256 + static_cast<unsigned char>(bytes[k - 1]);
    }
    return number;
  }
  std::string Line() {
    const size_t end = stream_.find('\n', at_);
    if (end == absl::string_view::npos) {
      Fail("the pickle ends early");
      return "";
    }
    std::string line(stream_.substr(at_, end - at_));
    at_ = end + 1;
    return line;
  }

  int Add(Kind kind, int64_t number = 0, absl::string_view text = "", std::vector<int> items = {}) {
    PickledValue value;
    value.kind = kind;
    value.number = number;
    value.text = std::string(text);
    value.items = std::move(items);
    values_.push_back(std::move(value));
    return static_cast<int>(values_.size()) - 1;
  }
  void Push(Kind kind, int64_t number = 0, absl::string_view text = "") {
    stack_.push_back(Add(kind, number, text));
  }
  void PushItems(Kind kind, std::vector<int> items) {
    stack_.push_back(Add(kind, 0, "", std::move(items)));
  }
  int Pop() {
    if (stack_.empty() || stack_.back() == kMark) {
      Fail("nothing is on the stack");
      return Add(Kind::kNone);
    }
    const int value = stack_.back();
    stack_.pop_back();
    return value;
  }
  std::vector<int> PopCount(size_t count) {
    std::vector<int> items(count);
    for (size_t k = count; k > 0; --k) items[k - 1] = Pop();
    return items;
  }
  std::vector<int> PopToMark() {
    size_t mark = stack_.size();
    while (mark > 0 && stack_[mark - 1] != kMark) --mark;
    if (mark == 0) {
      Fail("no mark is on the stack");
      return {};
    }
    std::vector<int> items(stack_.begin() + static_cast<int64_t>(mark), stack_.end());
    stack_.resize(mark - 1);
    return items;
  }
  // The object below what was popped gets more items.
  void Give(const std::vector<int>& items) {
    const int object = Pop();
    std::vector<int>& held = values_[static_cast<size_t>(object)].items;
    held.insert(held.end(), items.begin(), items.end());
    stack_.push_back(object);
  }
  void Memorise(uint64_t place) {
    const int value = Pop();
    stack_.push_back(value);
    memo_[place] = value;
  }
  void Recall(uint64_t place) {
    const auto found = memo_.find(place);
    if (found == memo_.end()) return Fail("nothing was put there");
    stack_.push_back(found->second);
  }
  void Long(uint64_t count) {
    const absl::string_view bytes = Take(count);
    int64_t number = 0;
    if (bytes.size() <= 8) {
      uint64_t bits = !bytes.empty() && (bytes.back() & 0x80) != 0 ? ~uint64_t{0} : 0;
      for (size_t k = bytes.size(); k > 0; --k) {
        bits = bits << 8 | static_cast<unsigned char>(bytes[k - 1]);
      }
      number = static_cast<int64_t>(bits);
    }
    Push(Kind::kNumber, number, bytes.size() <= 8 ? "" : bytes);
  }

  // Pickle's opcodes, as Python's pickletools lists them.
  void Step(char opcode) {
    switch (static_cast<unsigned char>(opcode)) {
      case 0x80:  // PROTO
        Take(1);
        return;
      case 0x95:  // FRAME
        Take(8);
        return;
      case '(':
        stack_.push_back(kMark);
        return;
      case '0':
        Pop();
        return;
      case 'N':
        return Push(Kind::kNone);
      case 0x88:
        return Push(Kind::kBool, 1);
      case 0x89:
        return Push(Kind::kBool, 0);
      case 'K':
        return Push(Kind::kNumber, static_cast<int64_t>(Number(1)));
      case 'M':
        return Push(Kind::kNumber, static_cast<int64_t>(Number(2)));
      case 'J':
        return Push(Kind::kNumber, static_cast<int32_t>(static_cast<uint32_t>(Number(4))));
      case 0x8a:
        return Long(Number(1));
      case 'G':  // BINFLOAT
        Take(8);
        return Push(Kind::kOther);
      case 'X':
        return Push(Kind::kText, 0, Take(Number(4)));
      case 0x8c:
        return Push(Kind::kText, 0, Take(Number(1)));
      case 'c': {
        const std::string module = Line();
        return Push(Kind::kGlobal, 0, absl::StrCat(module, " ", Line()));
      }
      case 0x93: {  // STACK_GLOBAL
        const std::vector<int> names = PopCount(2);
        return Push(Kind::kGlobal, 0,
                    absl::StrCat(values_[static_cast<size_t>(names[0])].text, " ",
                                 values_[static_cast<size_t>(names[1])].text));
      }
      case 'q':
        return Memorise(Number(1));
      case 'r':
        return Memorise(Number(4));
      case 0x94:
        return Memorise(memo_.size());
      case 'h':
        return Recall(Number(1));
      case 'j':
        return Recall(Number(4));
      case ')':
        return PushItems(Kind::kTuple, {});
      case 't':
        return PushItems(Kind::kTuple, PopToMark());
      case 0x85:
        return PushItems(Kind::kTuple, PopCount(1));
      case 0x86:
        return PushItems(Kind::kTuple, PopCount(2));
      case 0x87:
        return PushItems(Kind::kTuple, PopCount(3));
      case ']':
        return PushItems(Kind::kList, {});
      case '}':
        return PushItems(Kind::kDict, {});
      case 'a':
        return Give(PopCount(1));
      case 's':
        return Give(PopCount(2));
      case 'e':
      case 'u':
        return Give(PopToMark());
      case 'R':
      case 0x81:  // NEWOBJ
        return PushItems(Kind::kCall, PopCount(2));
      case 'b':  // BUILD: attributes of a dict or a tensor
        Pop();
        return;
      case 'Q':
        return PushItems(Kind::kId, PopCount(1));
      default:
        return Fail("it is none that torch.save writes for weights");
    }
  }

  const absl::string_view path_, stream_;
  size_t at_, opcode_at_ = 0;
  PickledValues& values_;
  std::vector<int> stack_;
  std::map<uint64_t, int> memo_;
  std::string problem_;
};

}  // namespace

absl::StatusOr<int> ReadPickled(absl::string_view path, absl::string_view stream, size_t* at,
                                PickledValues* values) {
  Unpickler unpickler(path, stream, *at, values);
  ZC_ASSIGN_OR_RETURN(const int result, unpickler.Run());
  *at = unpickler.at();
  return result;
}

}  // namespace zerocast::verify
