"""The native extension: C++ kernels of the native path, built on the machine that runs them and loaded by ctypes."""
