/* Kills the process that it is preloaded into just before the DIE_AT-th time that it changes something in the folder DIE_FOLDER: a write, a
 * truncation, a sync, a file that is made, renamed or removed. Or, if there is a FAIL_SYNC_OF, fails the first sync of the file whose path
 * ends like that. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long changes;

static void change(const char *path) {
    const char *folder = getenv("DIE_FOLDER"), *at = getenv("DIE_AT");
    if (folder && at && strncmp(path, folder, strlen(folder)) == 0 && atomic_fetch_add(&changes, 1) + 1 == atol(at)) {
        kill(getpid(), SIGKILL);
    }
}

static int find(int fd, char path[PATH_MAX + 1]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX);
    if (length < 0) return 0;
    path[length] = 0;
    return 1;
}

static void change_of(int fd) {
    char path[PATH_MAX + 1];
    if (find(fd, path)) change(path);
}

static int fails(int fd) {
    static atomic_flag has_failed = ATOMIC_FLAG_INIT;
    char path[PATH_MAX + 1];
    const char *end = getenv("FAIL_SYNC_OF");
    if (!end || !find(fd, path) || strlen(path) < strlen(end)) return 0;
    return strcmp(path + strlen(path) - strlen(end), end) == 0 && !atomic_flag_test_and_set(&has_failed);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                                 \
    int name(const char *path, int flags, ...) {                                   \
        va_list arguments;                                                         \
        va_start(arguments, flags);                                                \
        int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, int) : 0;     \
        va_end(arguments);                                                         \
        if ((flags & O_CREAT) && access(path, F_OK) != 0) change(path);            \
        return NEXT(name)(path, flags, mode);                                      \
    }
OPEN(open)
OPEN(open64)

#define WRITE(name, offset_t)                                                      \
    ssize_t name(int fd, const void *bytes, size_t count, offset_t offset) {       \
        change_of(fd);                                                             \
        return NEXT(name)(fd, bytes, count, offset);                               \
    }
WRITE(pwrite, off_t)
WRITE(pwrite64, off64_t)

#define TRUNCATE(name, offset_t)                                                   \
    int name(int fd, offset_t length) {                                            \
        change_of(fd);                                                             \
        return NEXT(name)(fd, length);                                             \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define SYNC(name)                                                                 \
    int name(int fd) {                                                             \
        change_of(fd);                                                             \
        if (fails(fd)) return errno = EIO, -1;                                     \
        return NEXT(name)(fd);                                                     \
    }
SYNC(fsync)
SYNC(fdatasync)

ssize_t write(int fd, const void *bytes, size_t count) {
    change_of(fd);
    return NEXT(write)(fd, bytes, count);
}

int rename(const char *from, const char *to) {
    change(to);
    return NEXT(rename)(from, to);
}

int unlink(const char *path) {
    change(path);
    return NEXT(unlink)(path);
}
