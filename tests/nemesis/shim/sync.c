/* Slow and failing syncs, preloaded into tidemarkd. Compiled by the rig when a run needs it.
 *
 * The file named by SYNC_SHIM_FILE is mapped and shared with the rig; all its numbers are 64 bits wide, in the
 * machine's byte order:
 *
 *   0 calls      counted here: how often anything was synced
 *   1 fail_from  calls from this one on fail with EIO; 0 = none
 *   2 fail_count how many of them
 *   3 slow_from  calls from this one on are delayed; 0 = none
 *   4 slow_count how many of them
 *   5 slow_us    by how many microseconds
 *   6 failed     counted here
 *   7 slowed     counted here
 *
 * A call that fails has synced nothing, and does not try: this is what the kernel does when the device refuses.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { CALLS, FAIL_FROM, FAIL_COUNT, SLOW_FROM, SLOW_COUNT, SLOW_US, FAILED, SLOWED, NUMBERS };

static volatile uint64_t *shared;

__attribute__((constructor)) static void attach(void) {
    const char *path = getenv("SYNC_SHIM_FILE");
    if (!path) return;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *map = mmap(NULL, NUMBERS * sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map != MAP_FAILED) shared = map;
}

/* 1 if this call is to fail. */
static int judge(void) {
    if (!shared) return 0;
    uint64_t call = __atomic_add_fetch(&shared[CALLS], 1, __ATOMIC_RELAXED);
    uint64_t from = shared[SLOW_FROM];
    if (from && call >= from && call - from < shared[SLOW_COUNT]) {
        uint64_t us = shared[SLOW_US];
        struct timespec pause = {(time_t)(us / 1000000), (long)(us % 1000000) * 1000};
        __atomic_add_fetch(&shared[SLOWED], 1, __ATOMIC_RELAXED);
        nanosleep(&pause, NULL);
    }
    from = shared[FAIL_FROM];
    if (from && call >= from && call - from < shared[FAIL_COUNT]) {
        __atomic_add_fetch(&shared[FAILED], 1, __ATOMIC_RELAXED);
        return 1;
    }
    return 0;
}

typedef int (*sync_call)(int);

static int forward(const char *name, int fd) {
    if (judge()) {
        errno = EIO;
        return -1;
    }
    sync_call next = (sync_call)dlsym(RTLD_NEXT, name);
    return next(fd);
}

int fdatasync(int fd) { return forward("fdatasync", fd); }
int fsync(int fd) { return forward("fsync", fd); }
