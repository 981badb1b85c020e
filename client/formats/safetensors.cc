#include "client/formats/safetensors.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <tuple>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/formats/file.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/base/utf8.h"
#include "xxhash.h"

namespace zerocast {
namespace {

constexpr int64_t kLengthBytes = 8;
constexpr int kMaxShapeRank = 32;

absl::Status Corrupt(absl::string_view file, absl::string_view what) {
  return WithReason(
      absl::DataLossError(absl::StrCat("read header of ", file, ": ", EscapeControls(what))),
      "CHECKPOINT_CORRUPT");
}

// Takes a header's JSON apart as it is parsed.  A generic JSON tree would keep the last of two
// equal keys and would recurse into hostile nesting; the format needs neither.
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderHandler(SafetensorsHeader* header) : header_(header) {}

  const std::string& error() const { return error_; }

  bool start_object(std::size_t) override {
    switch (place_) {
      case Place::kStart:
        place_ = Place::kTop;
        return true;
      case Place::kTopValue:
        if (key_ == "__metadata__") {
          place_ = Place::kMetadata;
          return true;
        }
        place_ = Place::kTensor;
        entry_ = SafetensorsEntry{};
        entry_.name = key_;
        seen_dtype_ = seen_shape_ = seen_offsets_ = false;
        return true;
      default:
        return Unexpected("an object");
    }
  }

  bool key(std::string& key) override {
    switch (place_) {
      case Place::kTop:
        if (key.empty()) return Fail("a tensor has an empty name");
        if (!names_.insert(key).second)
          return Fail(absl::StrCat("key \"", key, "\" appears twice"));
        key_ = key;
        place_ = Place::kTopValue;
        return true;
      case Place::kMetadata:
        if (header_->metadata.count(key) != 0) {
          return Fail(absl::StrCat("metadata key \"", key, "\" appears twice"));
        }
        metadata_key_ = key;
        place_ = Place::kMetadataValue;
        return true;
      case Place::kTensor:
        if (key == "dtype" && !seen_dtype_) {
          place_ = Place::kDType;
        } else if (key == "shape" && !seen_shape_) {
          place_ = Place::kShape;
        } else if (key == "data_offsets" && !seen_offsets_) {
          place_ = Place::kOffsets;
        } else {
          return Fail(absl::StrCat("tensor ", entry_.name, ": key \"", key,
                                   "\" is unknown or appears twice"));
        }
        return true;
      default:
        return Unexpected("a key");
    }
  }

  bool string(std::string& value) override {
    if (place_ == Place::kMetadataValue) {
      header_->metadata[metadata_key_] = value;
      place_ = Place::kMetadata;
      return true;
    }
    if (place_ == Place::kDType) {
      entry_.dtype = DTypeFromSafetensors(value.c_str());
      if (entry_.dtype == DType::kInvalid) {
        return Fail(absl::StrCat("tensor ", entry_.name, ": unknown dtype \"", value, "\""));
      }
      seen_dtype_ = true;
      place_ = Place::kTensor;
      return true;
    }
    return Unexpected("a string");
  }

  bool start_array(std::size_t) override {
    if (place_ == Place::kShape) {
      place_ = Place::kShapeItems;
      return true;
    }
    if (place_ == Place::kOffsets) {
      place_ = Place::kOffsetItems;
      offsets_.clear();
      return true;
    }
    return Unexpected("an array");
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (!InNumbers()) return Unexpected("a number");
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return Fail(absl::StrCat("tensor ", entry_.name, ": number ", value, " is too large"));
    }
    if (place_ == Place::kShapeItems) {
      if (entry_.shape.size() >= kMaxShapeRank) {
        return Fail(absl::StrCat("tensor ", entry_.name, ": shape has more than ", kMaxShapeRank,
                                 " dimensions"));
      }
      entry_.shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (offsets_.size() == 2) {
      return Fail(absl::StrCat("tensor ", entry_.name, ": data_offsets needs two numbers"));
    }
    offsets_.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool end_array() override {
    if (place_ == Place::kShapeItems) {
      seen_shape_ = true;
    } else {
      if (offsets_.size() != 2) {
        return Fail(absl::StrCat("tensor ", entry_.name, ": data_offsets needs two numbers"));
      }
      entry_.file_begin = offsets_[0];
      entry_.file_end = offsets_[1];
      seen_offsets_ = true;
    }
    place_ = Place::kTensor;
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kTensor) {
      if (!seen_dtype_ || !seen_shape_ || !seen_offsets_) {
        return Fail(
            absl::StrCat("tensor ", entry_.name, ": dtype, shape or data_offsets is missing"));
      }
      header_->tensors.push_back(std::move(entry_));
      place_ = Place::kTop;
    } else if (place_ == Place::kMetadata) {
      place_ = Place::kTop;
    } else {
      place_ = Place::kEnd;
    }
    return true;
  }

  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool number_integer(number_integer_t value) override {
    if (!InNumbers()) return Unexpected("a number");
    return Fail(absl::StrCat("tensor ", entry_.name, ": negative number ", value));
  }
  bool number_float(number_float_t, const std::string& text) override {
    if (!InNumbers()) return Unexpected("a number");
    return Fail(absl::StrCat("tensor ", entry_.name, ": ", text, " is not a whole number"));
  }
  bool binary(nlohmann::json::binary_t&) override { return Unexpected("binary data"); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    // The library's text quotes the input, which may be megabytes of anything.
    const std::string text = error.what();
    const bool utf8 = text.find("UTF-8") != std::string::npos;
    return Fail(absl::StrCat(utf8 ? "not valid UTF-8" : "not valid JSON", " at byte ",
                             kLengthBytes + static_cast<int64_t>(position)));
  }

 private:
  enum class Place {
    kStart,
    kTop,
    kTopValue,
    kMetadata,
    kMetadataValue,
    kTensor,
    kDType,
    kShape,
    kShapeItems,
    kOffsets,
    kOffsetItems,
    kEnd,
  };

  bool Fail(std::string error) {
    error_ = std::move(error);
    return false;
  }
  bool InNumbers() const { return place_ == Place::kShapeItems || place_ == Place::kOffsetItems; }
  // What the format wants at this place, named by its key.
  std::string Wanted() const {
    switch (place_) {
      case Place::kTopValue:
        return key_ == "__metadata__"
                   ? "__metadata__ must be an object of strings"
                   : absl::StrCat("tensor ", key_,
                                  " must be an object of dtype, shape, data_offsets");
      case Place::kMetadataValue:
        return absl::StrCat("__metadata__ key \"", metadata_key_, "\" must be a string");
      case Place::kDType:
        return absl::StrCat("tensor ", entry_.name, ": dtype must be a string");
      case Place::kShape:
      case Place::kShapeItems:
        return absl::StrCat("tensor ", entry_.name, ": shape must be a list of whole numbers");
      case Place::kOffsets:
      case Place::kOffsetItems:
        return absl::StrCat("tensor ", entry_.name, ": data_offsets must be a list of two numbers");
      default:
        return "the header must be one JSON object";
    }
  }
  bool Unexpected(absl::string_view found) {
    return Fail(absl::StrCat(Wanted(), ", found ", found));
  }

  SafetensorsHeader* const header_;
  Place place_ = Place::kStart;
  std::unordered_set<std::string> names_;
  std::string key_, metadata_key_, error_;
  SafetensorsEntry entry_;
  std::vector<int64_t> offsets_;
  bool seen_dtype_ = false, seen_shape_ = false, seen_offsets_ = false;
};

// Bytes of a tensor, or -1 where the product does not fit.
int64_t TensorBytes(const SafetensorsEntry& entry) {
  int64_t bytes = SizeOf(entry.dtype);
  // An extent of 0 anywhere makes the tensor empty however large the others are.
  if (std::find(entry.shape.begin(), entry.shape.end(), 0) != entry.shape.end()) return 0;
  for (const int64_t extent : entry.shape) {
    if (__builtin_mul_overflow(bytes, extent, &bytes)) return -1;
  }
  return bytes;
}

// Turns the offsets into absolute ones after checking each range and that together they cover
// the data.
absl::Status CheckRanges(int64_t file_bytes, absl::string_view file, SafetensorsHeader* header) {
  const int64_t data_bytes = file_bytes - header->data_begin;
  for (SafetensorsEntry& entry : header->tensors) {
    const int64_t wanted = TensorBytes(entry);
    if (entry.file_end < entry.file_begin) {
      return Corrupt(file,
                     absl::StrCat("tensor ", entry.name, ": data_offsets end before they begin"));
    }
    if (wanted != entry.file_end - entry.file_begin) {
      return Corrupt(
          file, absl::StrCat("tensor ", entry.name, ": data_offsets hold ",
                             entry.file_end - entry.file_begin, " bytes, shape times dtype needs ",
                             wanted < 0 ? "more than 2^63" : absl::StrCat(wanted)));
    }
    if (entry.file_end > data_bytes) {
      // Unsigned: data_offsets may end at 2^63 - 1, and the header comes before the data.
      const uint64_t end =
          static_cast<uint64_t>(header->data_begin) + static_cast<uint64_t>(entry.file_end);
      return Corrupt(file, absl::StrCat("tensor ", entry.name, ": its data ends at byte ", end,
                                        " but the file has ", file_bytes, " bytes (truncated?)"));
    }
    entry.file_begin += header->data_begin;
    entry.file_end += header->data_begin;
  }
  std::sort(header->tensors.begin(), header->tensors.end(),
            [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
              return std::tie(a.file_begin, a.file_end, a.name) <
                     std::tie(b.file_begin, b.file_end, b.name);
            });
  int64_t position = header->data_begin;
  const SafetensorsEntry* before = nullptr;
  for (const SafetensorsEntry& entry : header->tensors) {
    if (entry.file_begin < position) {
      return Corrupt(file, absl::StrCat("tensors ", before->name, " and ", entry.name,
                                        " overlap at byte ", entry.file_begin));
    }
    if (entry.file_begin > position) {
      return Corrupt(file, absl::StrCat("bytes ", position, " to ", entry.file_begin,
                                        " before tensor ", entry.name, " belong to no tensor"));
    }
    position = entry.file_end;
    before = &entry;
  }
  if (position != file_bytes) {
    return Corrupt(file, absl::StrCat("bytes ", position, " to ", file_bytes,
                                      " at the end belong to no tensor"));
  }
  return absl::OkStatus();
}

// The length of the JSON, checked against the format's limit and the file.
absl::StatusOr<int64_t> HeaderLength(absl::string_view prefix, int64_t file_bytes,
                                     absl::string_view file) {
  if (file_bytes < kLengthBytes || static_cast<int64_t>(prefix.size()) < kLengthBytes) {
    return Corrupt(
        file, absl::StrCat("the file has ", file_bytes, " bytes, too few for a safetensors file"));
  }
  uint64_t length = 0;
  for (int k = 0; k < kLengthBytes; ++k) {
    length |= static_cast<uint64_t>(static_cast<uint8_t>(prefix[k])) << (8 * k);
  }
  if (length > static_cast<uint64_t>(kMaxSafetensorsHeaderBytes)) {
    return Corrupt(file,
                   absl::StrCat("header length ", length, " at offset 0 is beyond the limit of ",
                                kMaxSafetensorsHeaderBytes, " bytes"));
  }
  if (length > static_cast<uint64_t>(file_bytes - kLengthBytes)) {
    return Corrupt(file, absl::StrCat("header length ", length,
                                      " at offset 0 is beyond the file's ", file_bytes, " bytes"));
  }
  return static_cast<int64_t>(length);
}

}  // namespace

absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(absl::string_view prefix,
                                                         int64_t file_bytes,
                                                         absl::string_view file) {
  ZC_ASSIGN_OR_RETURN(const int64_t length, HeaderLength(prefix, file_bytes, file));
  if (static_cast<int64_t>(prefix.size()) < kLengthBytes + length) {
    return absl::InternalError(absl::StrCat("read header of ", file, ": prefix is too short"));
  }
  SafetensorsHeader header;
  header.data_begin = kLengthBytes + length;
  header.digest = XXH3_64bits(prefix.data(), static_cast<size_t>(header.data_begin));
  const absl::string_view json = prefix.substr(kLengthBytes, length);
  HeaderHandler handler(&header);
  if (!nlohmann::json::sax_parse(json.begin(), json.end(), &handler)) {
    return Corrupt(file, handler.error());
  }
  ZC_RETURN_IF_ERROR(CheckRanges(file_bytes, file, &header));
  return header;
}

absl::StatusOr<SafetensorsHeader> ReadSafetensorsHeader(const InputFile& file) {
  ZC_ASSIGN_OR_RETURN(std::string prefix, file.Read(0, std::min(kLengthBytes, file.num_bytes())));
  ZC_ASSIGN_OR_RETURN(const int64_t length, HeaderLength(prefix, file.num_bytes(), file.path()));
  ZC_ASSIGN_OR_RETURN(prefix, file.Read(0, kLengthBytes + length));
  return ParseSafetensorsHeader(prefix, file.num_bytes(), file.path());
}

absl::StatusOr<SafetensorsHeader> ReadSafetensorsHeader(const std::string& path) {
  ZC_ASSIGN_OR_RETURN(const InputFile file, InputFile::Open(path));
  return ReadSafetensorsHeader(file);
}

}  // namespace zerocast
