/* A disk that tells the truth about power loss, for tests: preloaded into a program, it keeps a second copy of every file
 * below $POWER_LOSS_DIR in $POWER_LOSS_DURABLE, as of the last fsync or fdatasync of that file. After a cut the test puts the
 * second copies in place of the files: what was not synced is forgotten.
 *
 * A copy is made in a temporary file and renamed, so a program killed in the middle of a sync leaves the copy before.
 * Names are durable at once, as on a file system with a journal; contents are not. File names are flat: the programs under
 * test keep their files in one folder.
 *
 * While the file $POWER_LOSS_EIO exists, every sync of the program fails with EIO and keeps nothing. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *durable_name(const char *path, char *out) {
    const char *dir = getenv("POWER_LOSS_DIR"), *to = getenv("POWER_LOSS_DURABLE");
    const char *name = strrchr(path, '/');
    if (!dir || !to || !name || strncmp(path, dir, strlen(dir)) != 0) return NULL;
    /* Shared memory is never synced and is made anew. */
    size_t n = strlen(name);
    if (n > 4 && strcmp(name + n - 4, "-shm") == 0) return NULL;
    snprintf(out, PATH_MAX, "%s%s", to, name);
    return out;
}

static void keep(int fd) {
    char link[64], path[PATH_MAX], to[PATH_MAX], tmp[PATH_MAX + 32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return;
    path[n] = 0;
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) || !durable_name(path, to)) return;
    snprintf(tmp, sizeof tmp, "%s.%d.tmp", to, (int)gettid());
    int in = open(path, O_RDONLY), out = open(tmp, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    static __thread char buffer[1 << 16];
    ssize_t got = -1;
    if (in >= 0 && out >= 0)
        while ((got = read(in, buffer, sizeof buffer)) > 0)
            if (write(out, buffer, (size_t)got) != got) { got = -1; break; }
    if (in >= 0) close(in);
    if (out >= 0) close(out);
    int (*move)(const char *, const char *) = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
    if (got == 0) move(tmp, to);
    else unlink(tmp);
}

/* True while the disk fails. */
static int failing(void) {
    const char *flag = getenv("POWER_LOSS_EIO");
    if (!flag || access(flag, F_OK) != 0) return 0;
    errno = EIO;
    return 1;
}

int fsync(int fd) {
    if (failing()) return -1;
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    int r = real(fd);
    if (r == 0) keep(fd);
    return r;
}

int fdatasync(int fd) {
    if (failing()) return -1;
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    int r = real(fd);
    if (r == 0) keep(fd);
    return r;
}

int rename(const char *from, const char *to) {
    int (*real)(const char *, const char *) = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
    char kept[PATH_MAX], moved[PATH_MAX];
    int r = real(from, to);
    if (r == 0 && durable_name(from, kept) && durable_name(to, moved) && real(kept, moved) != 0) unlink(moved);
    return r;
}

int unlink(const char *path) {
    int (*real)(const char *) = (int (*)(const char *))dlsym(RTLD_NEXT, "unlink");
    char to[PATH_MAX];
    int r = real(path);
    if (r == 0 && durable_name(path, to)) real(to);
    return r;
}
