# Read by CMake right after llama-cpp-python's own project() call:
#   CMAKE_ARGS="-DCMAKE_PROJECT_llama_cpp_INCLUDE=<this file> ..." pip install llama-cpp-python
# It only sets plain variables, which win over the cache entries that its CMakeLists.txt forces.

# llama.cpp's `common` library (argument parsing, chat templates, an HTTP client) serves its command
# line tools; libllama does not link to it, and it is half of the compile time.
set(LLAMA_BUILD_COMMON OFF)
# The same for the multimodal library, which needs `common`.
set(LLAVA_BUILD OFF)

# llama.cpp's own install rules would leave a second copy of every library in site-packages/lib and
# put run-time loaded backends (GGML_BACKEND_DL) into site-packages/bin, where nothing looks for them.
set(CMAKE_INSTALL_BINDIR llama_cpp/lib)
set(CMAKE_INSTALL_LIBDIR llama_cpp/lib)
set(CMAKE_INSTALL_INCLUDEDIR llama_cpp/include)
# A backend finds libggml-base beside itself.
if(APPLE)
  set(CMAKE_INSTALL_RPATH "@loader_path")
else()
  set(CMAKE_INSTALL_RPATH "$ORIGIN")
endif()
