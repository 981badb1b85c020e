#include "server/wire/gzip.h"

#include <zlib.h>

#include <algorithm>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "server/base/errors.h"

namespace zerocast {
namespace {

// zlib: "add 16 to windowBits to write a simple gzip header and trailer".
constexpr int kGzipWindowBits = 15 + 16;
constexpr int kMemLevel = 8;  // zlib's own default

// Gives `stream` as much of `in` as its 32-bit counter can hold.
void Feed(absl::string_view* in, z_stream* stream) {
  const size_t n = std::min(in->size(), static_cast<size_t>(std::numeric_limits<uInt>::max()));
  stream->next_in = reinterpret_cast<Bytef*>(const_cast<char*>(in->data()));
  stream->avail_in = static_cast<uInt>(n);
  in->remove_prefix(n);
}

absl::Status NotGzip(size_t num_bytes, absl::string_view what) {
  return WithReason(
      absl::InvalidArgumentError(absl::StrCat("unpack ", num_bytes, " bytes as gzip: ", what)),
      "INVALID_FIELDS");
}

}  // namespace

std::string Gzip(absl::string_view bytes) {
  z_stream stream = {};
  std::string compressed;
  // Fails for want of memory alone, which ends the process elsewhere too.
  if (deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, kGzipWindowBits, kMemLevel,
                   Z_DEFAULT_STRATEGY) != Z_OK) {
    return compressed;
  }
  char chunk[64 << 10];
  int result = Z_OK;
  while (result == Z_OK) {
    if (stream.avail_in == 0) Feed(&bytes, &stream);
    stream.next_out = reinterpret_cast<Bytef*>(chunk);
    stream.avail_out = sizeof(chunk);
    result = deflate(&stream, bytes.empty() ? Z_FINISH : Z_NO_FLUSH);
    compressed.append(chunk, sizeof(chunk) - stream.avail_out);
  }
  deflateEnd(&stream);
  return compressed;
}

absl::StatusOr<std::string> Gunzip(absl::string_view compressed, int64_t max_bytes) {
  const size_t num_bytes = compressed.size();
  z_stream stream = {};
  if (inflateInit2(&stream, kGzipWindowBits) != Z_OK) {
    return absl::ResourceExhaustedError("unpack gzip: out of memory");
  }
  std::string bytes;
  char chunk[64 << 10];
  absl::Status status;
  int result = Z_OK;
  while (status.ok() && result != Z_STREAM_END) {
    if (stream.avail_in == 0) Feed(&compressed, &stream);
    stream.next_out = reinterpret_cast<Bytef*>(chunk);
    stream.avail_out = sizeof(chunk);
    result = inflate(&stream, Z_NO_FLUSH);
    bytes.append(chunk, sizeof(chunk) - stream.avail_out);
    if (static_cast<int64_t>(bytes.size()) > max_bytes) {
      status = WithReason(absl::ResourceExhaustedError(absl::StrCat(
                              "unpack ", num_bytes, " bytes as gzip: more than the limit of ",
                              max_bytes, " bytes")),
                          "RESOURCE_EXHAUSTED");
    } else if (result == Z_BUF_ERROR) {
      status = NotGzip(num_bytes, "it was cut short");
    } else if (result != Z_OK && result != Z_STREAM_END) {
      status = NotGzip(num_bytes, stream.msg != nullptr ? stream.msg : "it is damaged");
    }
  }
  if (status.ok() && (stream.avail_in > 0 || !compressed.empty())) {
    status = NotGzip(num_bytes, "other bytes follow its end");
  }
  inflateEnd(&stream);
  if (!status.ok()) return status;
  return bytes;
}

absl::StatusOr<std::string> GunzipIfPacked(std::string text, absl::string_view name,
                                           int64_t max_bytes) {
  if (!absl::StartsWith(text, "\x1f\x8b")) return text;
  absl::StatusOr<std::string> unpacked = Gunzip(text, max_bytes);
  if (!unpacked.ok()) return Annotate(unpacked.status(), name);
  return unpacked;
}

}  // namespace zerocast
