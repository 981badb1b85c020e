// The shared library is made of static ones; CMake wants a source of its own.
