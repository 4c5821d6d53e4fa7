/* Kills a program before its n-th step, for tests: preloaded, it counts the calls that write a file, sync a file or write to
 * a socket. It sleeps until the file $STEPS_ARM appears, reads n from it, deletes it, and counts from then on; before the n-th
 * call the program ends as by SIGKILL. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(type, name, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name))

static atomic_long left = -1;

static void arm(void) {
    const char *path = getenv("STEPS_ARM");
    char text[32];
    int fd = path ? open(path, O_RDONLY) : -1;
    if (fd < 0) return;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0 || REAL(int, unlink, const char *)(path) != 0) return;
    text[n] = 0;
    atomic_store(&left, strtol(text, NULL, 10));
}

static void step(int fd) {
    struct stat st;
    if (fstat(fd, &st) != 0 || !(S_ISREG(st.st_mode) || S_ISSOCK(st.st_mode))) return;
    if (atomic_load(&left) < 0) arm();
    if (atomic_load(&left) < 0) return;
    if (atomic_fetch_sub(&left, 1) == 1) kill(getpid(), SIGKILL);
}

ssize_t pwrite64(int fd, const void *b, size_t n, off64_t at) { step(fd); return REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t)(fd, b, n, at); }
ssize_t pwrite(int fd, const void *b, size_t n, off_t at) { step(fd); return REAL(ssize_t, pwrite, int, const void *, size_t, off_t)(fd, b, n, at); }
ssize_t write(int fd, const void *b, size_t n) { step(fd); return REAL(ssize_t, write, int, const void *, size_t)(fd, b, n); }
ssize_t writev(int fd, const struct iovec *v, int n) { step(fd); return REAL(ssize_t, writev, int, const struct iovec *, int)(fd, v, n); }
ssize_t send(int fd, const void *b, size_t n, int f) { step(fd); return REAL(ssize_t, send, int, const void *, size_t, int)(fd, b, n, f); }
ssize_t sendmsg(int fd, const struct msghdr *m, int f) { step(fd); return REAL(ssize_t, sendmsg, int, const struct msghdr *, int)(fd, m, f); }
int fsync(int fd) { step(fd); return REAL(int, fsync, int)(fd); }
int fdatasync(int fd) { step(fd); return REAL(int, fdatasync, int)(fd); }
int ftruncate64(int fd, off64_t n) { step(fd); return REAL(int, ftruncate64, int, off64_t)(fd, n); }
