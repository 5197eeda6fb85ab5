/* Preloaded into a receiver: file systems that fail. $BADFS names a file with one fault a line, read at every call:
 *     CALL PART ERRNO           calls (open, write, link, fsync, fdatasync) on paths that contain PART fail with ERRNO
 *     statvfs PART BYTES NAMES  so much is said to be free
 * "open" means making a file. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define NEXT(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))

static int faulty(const char *call, const char *path, long *first, long *second)
{
    const char *control = getenv("BADFS");
    char name[32], part[256];
    int found = 0;
    FILE *file;
    if (control == NULL || path == NULL || strcmp(path, control) == 0 || (file = NEXT(fopen)(control, "r")) == NULL)
        return 0;
    while (!found) {
        *second = 0;
        int got = fscanf(file, " %31s %255s %ld", name, part, first);
        if (got != 3)
            break;
        if (strcmp(name, "statvfs") == 0 && fscanf(file, " %ld", second) != 1)
            break;
        found = strcmp(name, call) == 0 && strstr(path, part) != NULL;
    }
    fclose(file);
    return found;
}

static int fails(const char *call, const char *path)
{
    long code, unused;
    if (!faulty(call, path, &code, &unused))
        return 0;
    errno = (int)code;
    return 1;
}

static int fails_at(const char *call, int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return fails(call, path);
}

#define OPEN(name)                                                                  \
    int name(const char *path, int flags, ...)                                      \
    {                                                                               \
        va_list list;                                                               \
        va_start(list, flags);                                                      \
        mode_t mode = flags & O_CREAT ? va_arg(list, mode_t) : 0;                   \
        va_end(list);                                                               \
        if ((flags & O_CREAT) && fails("open", path))                               \
            return -1;                                                              \
        return ((int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name))(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

ssize_t write(int fd, const void *data, size_t count) { return fails_at("write", fd) ? -1 : NEXT(write)(fd, data, count); }
int fsync(int fd) { return fails_at("fsync", fd) ? -1 : NEXT(fsync)(fd); }
int fdatasync(int fd) { return fails_at("fdatasync", fd) ? -1 : NEXT(fdatasync)(fd); }
int link(const char *from, const char *to) { return fails("link", to) ? -1 : NEXT(link)(from, to); }
int linkat(int a, const char *from, int b, const char *to, int flags)
{
    return fails("link", to) ? -1 : NEXT(linkat)(a, from, b, to, flags);
}

#define STATVFS(name, type)                                                          \
    int name(const char *path, struct type *stat)                                    \
    {                                                                                \
        long bytes, names;                                                           \
        int result = ((int (*)(const char *, struct type *))dlsym(RTLD_NEXT, #name))(path, stat); \
        if (result == 0 && faulty("statvfs", path, &bytes, &names)) {                \
            stat->f_bavail = bytes / stat->f_frsize;                                 \
            stat->f_files = 1000000;                                                 \
            stat->f_favail = names;                                                  \
        }                                                                            \
        return result;                                                               \
    }
STATVFS(statvfs, statvfs)
STATVFS(statvfs64, statvfs64)
