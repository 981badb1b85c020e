// Reads a file of torch.save and writes what it holds to another.
//
//     torch_rewrite FROM TO ZIP64_FROM
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "client/formats/torch_file.h"
#include "client/formats/torch_writer.h"
#include "kernels/base/status_macros.h"

namespace zerocast {
namespace {

absl::Status Rewrite(const std::string& from, const std::string& to, int64_t zip64_from) {
  ZC_ASSIGN_OR_RETURN(const InputFile input, InputFile::Open(from));
  ZC_ASSIGN_OR_RETURN(const TorchFile file, TorchFile::Read(input));
  std::vector<TorchStorageData> storages;
  for (const TorchStorage& storage : file.storages()) {
    TorchStorageData data;
    data.key = storage.key;
    data.num_bytes = storage.num_bytes;
    data.next = [&input, at = storage.file_begin](int64_t num_bytes, std::string* out) mutable {
      ZC_ASSIGN_OR_RETURN(*out, input.Read(at, num_bytes));
      at += num_bytes;
      return absl::OkStatus();
    };
    storages.push_back(std::move(data));
  }
  return WriteTorchFile(to, file.graph(), storages, zip64_from);
}

}  // namespace
}  // namespace zerocast

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const absl::Status status = zerocast::Rewrite(argv[1], argv[2], std::atoll(argv[3]));
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
