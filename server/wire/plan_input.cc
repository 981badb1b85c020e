#include "server/wire/plan_input.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "server/base/errors.h"
#include "server/wire/gzip.h"
#include "server/wire/plan_wire.h"
#include "zerocast/v1/plan.pb.h"

namespace zerocast {
namespace {

namespace pbio = ::google::protobuf::io;

// Equal messages give equal bytes.
template <typename Message>
std::string SerializeDeterministic(const Message& message) {
  std::string bytes;
  {
    pbio::StringOutputStream stream(&bytes);
    pbio::CodedOutputStream coded(&stream);
    coded.SetSerializationDeterministic(true);
    message.SerializeToCodedStream(&coded);
  }
  return bytes;
}

template <typename Message>
absl::StatusOr<Message> Unpack(absl::string_view compressed, absl::string_view what) {
  absl::StatusOr<std::string> bytes = Gunzip(compressed, kMaxUnpackedBytes);
  if (!bytes.ok()) return Annotate(bytes.status(), absl::StrCat("unpack ", what));
  Message message;
  if (!message.ParseFromString(*bytes)) {
    return WithReason(absl::InvalidArgumentError(absl::StrCat("parse ", what, ": ", bytes->size(),
                                                              " bytes are no such message")),
                      "INVALID_FIELDS");
  }
  return message;
}

}  // namespace

std::string CompressManifest(const Manifest& manifest) {
  return Gzip(SerializeDeterministic(ManifestToProto(manifest)));
}

absl::StatusOr<Manifest> DecompressManifest(absl::string_view compressed) {
  ZC_ASSIGN_OR_RETURN(const v1::Manifest message, Unpack<v1::Manifest>(compressed, "manifest"));
  return ManifestFromProto(message);
}

std::string CompressPlanInput(const PlanInput& input) {
  v1::PlanInput message;
  *message.mutable_manifest() = ManifestToProto(*input.manifest);
  message.set_model_spec_json(input.model_spec_json);
  message.set_key_mapping_json(input.key_mapping_json);
  *message.mutable_layout() = LayoutToProto(input.layout);
  return Gzip(SerializeDeterministic(message));
}

absl::StatusOr<PlanInput> DecompressPlanInput(absl::string_view compressed) {
  ZC_ASSIGN_OR_RETURN(const v1::PlanInput message, Unpack<v1::PlanInput>(compressed, "plan input"));
  PlanInput input;
  ZC_ASSIGN_OR_RETURN(Manifest manifest, ManifestFromProto(message.manifest()));
  input.manifest = std::make_shared<const Manifest>(std::move(manifest));
  ZC_ASSIGN_OR_RETURN(input.layout, LayoutFromProto(message.layout()));
  input.model_spec_json = message.model_spec_json();
  input.key_mapping_json = message.key_mapping_json();
  return input;
}

}  // namespace zerocast
