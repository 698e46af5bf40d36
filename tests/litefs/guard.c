/* Makes a folder read-only to the process that it is preloaded into, as LiteFS does on every node that isn't the primary: writes fail with
 * EACCES while the file GUARD_MARK exists, while other processes go on writing. Only SQLite's shared memory stays writable. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int ends_with(const char *text, const char *end) {
    size_t length = strlen(text), tail = strlen(end);
    return length >= tail && strcmp(text + length - tail, end) == 0;
}

static int is_read_only(const char *path) {
    const char *folder = getenv("GUARD_FOLDER"), *mark = getenv("GUARD_MARK");
    return folder && mark && strncmp(path, folder, strlen(folder)) == 0 && !ends_with(path, "-shm") && access(mark, F_OK) == 0;
}

static int refused(int fd) {
    char link[64], path[PATH_MAX + 1];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX);
    if (length < 0) return 0;
    path[length] = 0;
    if (!is_read_only(path)) return 0;
    errno = EACCES;
    return 1;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                                                     \
    int name(const char *path, int flags, ...) {                                                       \
        va_list arguments;                                                                             \
        va_start(arguments, flags);                                                                    \
        int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, int) : 0;                         \
        va_end(arguments);                                                                             \
        if ((flags & O_CREAT) && is_read_only(path) && access(path, F_OK) != 0) {                      \
            errno = EACCES;                                                                            \
            return -1;                                                                                 \
        }                                                                                              \
        return NEXT(name)(path, flags, mode);                                                          \
    }
OPEN(open)
OPEN(open64)

#define WRITE(name, offset_t)                                                                          \
    ssize_t name(int fd, const void *bytes, size_t count, offset_t offset) {                           \
        return refused(fd) ? -1 : NEXT(name)(fd, bytes, count, offset);                                \
    }
WRITE(pwrite, off_t)
WRITE(pwrite64, off64_t)

ssize_t write(int fd, const void *bytes, size_t count) {
    return refused(fd) ? -1 : NEXT(write)(fd, bytes, count);
}

int ftruncate(int fd, off_t length) {
    return refused(fd) ? -1 : NEXT(ftruncate)(fd, length);
}

int ftruncate64(int fd, off64_t length) {
    return refused(fd) ? -1 : NEXT(ftruncate64)(fd, length);
}
