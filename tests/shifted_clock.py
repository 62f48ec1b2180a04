"""A process whose clock can be set while it runs, by a small library that is loaded first and shifts the time of day.

Monotonic clocks are left alone, as they are when a machine's clock is set, unless a long stop is to be shown. What is
linked statically (the Go daemon) keeps the machine's time.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long long *offset; /* of the time of day, and of monotonic clocks */

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("LC_SHIFTED_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *page = mmap(0, 2 * sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    if (page != MAP_FAILED) offset = page;
    close(file);
}

int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(id, now);
    if (!failed && offset && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += offset[0];
    if (!failed && offset && (id == CLOCK_MONOTONIC || id == CLOCK_MONOTONIC_COARSE || id == CLOCK_BOOTTIME))
        now->tv_sec += offset[1];
    return failed;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""


class ShiftedClock:
    """The clock of the processes that are started with `environment`."""

    def __init__(self, folder: Path) -> None:
        """Skips the test where there is no C compiler."""
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("there is no C compiler")
        self._file = folder / "offset"
        self._file.write_bytes(struct.pack("qq", 0, 0))
        source, library = folder / "clock.c", folder / "clock.so"
        source.write_text(SOURCE)
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", str(source), "-o", str(library), "-ldl"], check=True)
        self.environment = {"LD_PRELOAD": str(library), "LC_SHIFTED_CLOCK": str(self._file)}

    def shift(self, seconds: int, *, monotonic: bool = False) -> None:
        """From now on the time of day is so far ahead of the machine's; with `monotonic` these clocks are too.

        Both together are what a process sees that was stopped for so long.
        """
        with self._file.open("r+b") as file, mmap.mmap(file.fileno(), 16) as page:
            ahead = struct.unpack("qq", page[:])[1]
            page[:] = struct.pack("qq", seconds, seconds if monotonic else ahead)
