// What every function of the shim that may throw returns: no exception crosses into Rust.

#pragma once

#include <cstring>
#include <exception>

// Null, or a message that rustspeed_free_message frees.
template <typename Body>
char* guarded(Body body) {
  try {
    body();
    return nullptr;
  } catch (const std::exception& error) {
    return strdup(error.what());
  } catch (...) {
    return strdup("unknown C++ exception");
  }
}
