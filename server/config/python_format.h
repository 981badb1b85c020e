#ifndef ZEROCAST_SERVER_CONFIG_PYTHON_FORMAT_H_
#define ZEROCAST_SERVER_CONFIG_PYTHON_FORMAT_H_

#include <string>

#include "absl/strings/string_view.h"
#include "server/config/value.h"

namespace zerocast {

// str(value) as CPython 3 prints it: True, None, 5e-05, [0.9, 'x'], {'a': 1}; a string as it is.
std::string PythonStr(const ConfigValue& value);

// repr(value): as PythonStr, but a string in quotes with Python's escapes.
std::string PythonRepr(const ConfigValue& value);

// type(value).__name__: "NoneType", "bool", "int", "float", "str", "list" or "dict".
absl::string_view PythonTypeName(const ConfigValue& value);

// bool(value).
bool PythonTruth(const ConfigValue& value);

// a == b: True == 1 == 1.0, lists and dicts by their elements, dicts whatever their order, NaN
// equals nothing.
bool PythonEqual(const ConfigValue& a, const ConfigValue& b);

// a is b or a == b, as Python compares the elements of lists and dicts: NaN is NaN, since Python's
// json makes one object of every NaN that it reads.
bool PythonSame(const ConfigValue& a, const ConfigValue& b);

// `text` with every byte that is not part of valid UTF-8 replaced by '?'.
std::string ToValidUtf8(absl::string_view text);

}  // namespace zerocast

#endif  // ZEROCAST_SERVER_CONFIG_PYTHON_FORMAT_H_
