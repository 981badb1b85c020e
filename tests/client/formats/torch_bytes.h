#ifndef ZEROCAST_TESTS_CLIENT_FORMATS_TORCH_BYTES_H_
#define ZEROCAST_TESTS_CLIENT_FORMATS_TORCH_BYTES_H_

#include <string>
#include <vector>

#include "tests/client/formats/zip_bytes.h"

namespace zerocast {

// Pieces of pickles and files of torch.save, put together by hand so that each can be wrong.
inline std::string PickledText(const std::string& text) {
  std::string out = "X";
  PutLittleEndian(text.size(), 4, &out);
  return out + text;
}
inline std::string PickledNumber(int64_t value) {
  std::string out = "\x8a\x08";
  PutLittleEndian(static_cast<uint64_t>(value), 8, &out);
  return out;
}
inline std::string PickledTuple(const std::vector<int64_t>& numbers) {
  std::string out = "(";
  for (const int64_t number : numbers) out += PickledNumber(number);
  return out + "t";
}
// torch._utils._rebuild_tensor_v2(storage, ...) of four floats under the key "0".
struct PickledTensor {
  std::string storage_class = "torch\nFloatStorage", key = PickledText("0"), location = "cpu";
  std::string storage_elements = PickledNumber(4), view;  // view: a sixth part
  int64_t offset = 0;
  std::vector<int64_t> shape = {4}, strides = {1};
  std::string function = "torch._utils\n_rebuild_tensor_v2";
  std::string flags =
      "\x89"
      "ccollections\nOrderedDict\n)R";  // requires_grad, hooks and more
  std::string Text() const {
    return "c" + function + "\n((" + PickledText("storage") + "c" + storage_class + "\n" + key +
           PickledText(location) + storage_elements + view + "tQ" + PickledNumber(offset) +
           PickledTuple(shape) + PickledTuple(strides) + flags + "tR";
  }
};

inline ZipPart Entry(const std::string& name, const std::string& data) {
  ZipPart part;
  part.name = name;
  part.data = data;
  return part;
}
// A zip file of torch.save with this object; storage "0" has 16 bytes.
inline std::vector<ZipPart> TorchParts(const std::string& object) {
  return {Entry("a/data.pkl", "\x80\x02" + object + "."), Entry("a/byteorder", "little"),
          Entry("a/data/0", std::string(16, 'x')), Entry("a/version", "3\n")};
}

// A legacy stream with this object and, of `keys`, storages of four floats.
inline std::string LegacyStream(const std::string& object, const std::vector<std::string>& keys,
                                uint64_t count = 4) {
  std::string out("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.",
                  21);
  out += "\x80\x02}" + PickledText("little_endian") + "\x88s.";
  out += "\x80\x02" + object + ".\x80\x02](";
  for (const std::string& key : keys) out += PickledText(key);
  out += "e.";
  for (size_t k = 0; k < keys.size(); ++k) {
    PutLittleEndian(count, 8, &out);
    out += std::string(16, 'x');
  }
  return out;
}

}  // namespace zerocast

#endif  // ZEROCAST_TESTS_CLIENT_FORMATS_TORCH_BYTES_H_
