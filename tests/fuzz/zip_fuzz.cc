// Bytes as a zip file: whatever its fields say, its entries lie in it and apart.
#include <cstddef>
#include <cstdint>

#include "client/formats/zip_archive.h"
#include "tests/client/formats/memory_file.h"
#include "tests/fuzz/check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace zerocast;
  const MemoryFile memory(absl::string_view(reinterpret_cast<const char*>(data), size));
  const auto file = InputFile::Open(memory.path());
  FuzzCheck(file.ok(), "the file opens");
  const auto archive = ZipArchive::Read(*file);
  if (!archive.ok()) return 0;
  int64_t end = 0;
  for (const ZipEntry& entry : archive->entries()) {
    FuzzCheck(entry.data_begin >= end && entry.num_bytes >= 0, "entries lie apart");
    end = entry.data_begin + entry.num_bytes;
    FuzzCheck(end <= file->num_bytes(), "entries lie in the file");
    FuzzCheck(archive->Find(entry.name) == &entry, "names are unique");
    const auto bytes = ReadZipEntry(*file, entry, 1 << 20);
    FuzzCheck(bytes.ok() == CheckZipEntry(*file, entry).ok(), "the two checks of a CRC agree");
  }
  return 0;
}
