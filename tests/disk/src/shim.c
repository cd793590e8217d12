/* A disk that can be faulted: preloaded into a process, it records what the process does to the files below one
 * directory and lets chosen operations fail, wait or kill the process. See lib.rs for how it is used, journal.rs for
 * the journal's format and faults.rs for the language of the control file.
 *
 * One lock is held over an operation and its record, so the journal has the order in which the disk saw them. A sync
 * runs outside of it: its record says how many operations had been recorded when it began, which are the ones it covers.
 * What would change files unseen (shared mappings, links, copies inside the kernel) is refused with an error that its
 * callers know how to take. System calls that do not come from the C library are trapped and go the same way. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <ucontext.h>
#include <unistd.h>

enum kind { OPEN = 1, WRITE, TRUNCATE, SYNC, RENAME, UNLINK, MKDIR, RMDIR, RANGE, NOTE };
enum flag { CREATED = 1, TRUNCATED = 2, DIRECTORY = 4 };

struct record {
    uint32_t magic;
    uint16_t kind, flags;
    int32_t error;
    uint32_t path_len, to_len, data_len;
    uint64_t handle, offset, begin;
} __attribute__((packed));

struct handle {
    uint64_t id;
    int append, note;
    char path[];
};

#define FDS 65536
#define RULES 32
static _Atomic(struct handle *) handles[FDS];
static pthread_mutex_t disk = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t faults = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static char root[PATH_MAX];
static size_t root_len;
static const char *control;
/* Without a journal nothing is recorded: faults strike all the same. */
static int active, journal = -1, strikes = -1;
static uint64_t recorded, opened;

static int (*real_openat)(int, const char *, int, ...);
static int (*real_close)(int);
static ssize_t (*real_read)(int, void *, size_t);
static ssize_t (*real_readv)(int, const struct iovec *, int);
static ssize_t (*real_pread)(int, void *, size_t, off_t);
static ssize_t (*real_preadv)(int, const struct iovec *, int, off_t);
static ssize_t (*real_write)(int, const void *, size_t);
static ssize_t (*real_writev)(int, const struct iovec *, int);
static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_pwritev)(int, const struct iovec *, int, off_t);
static int (*real_ftruncate)(int, off_t);
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_sync_file_range)(int, off_t, off_t, unsigned);
static int (*real_renameat2)(int, const char *, int, const char *, unsigned);
static int (*real_unlinkat)(int, const char *, int);
static int (*real_mkdirat)(int, const char *, mode_t);
static int (*real_linkat)(int, const char *, int, const char *, int);
static int (*real_symlinkat)(const char *, int, const char *);
static int (*real_dup)(int);
static int (*real_dup2)(int, int);
static int (*real_dup3)(int, int, int);
static int (*real_fcntl)(int, int, ...);
static void *(*real_mmap)(void *, size_t, int, int, int, off_t);
static int (*real_fallocate)(int, int, off_t, off_t);
static ssize_t (*real_copy_file_range)(int, off_t *, int, off_t *, size_t, unsigned);
static ssize_t (*real_sendfile)(int, int, off_t *, size_t);

static void die(const char *why) {
    dprintf(2, "granary-test-disk: %s: %s\n", why, strerror(errno));
    abort();
}

#define FIND(name)                                                    \
    do {                                                              \
        *(void **)&real_##name = dlsym(RTLD_NEXT, #name);             \
        if (!real_##name) die("the C library has no " #name);         \
    } while (0)

static void trap_raw_calls(void);

/* Opens a file of this library's own, or returns -1 for none. */
static int append_to(const char *path) {
    if (!path) return -1;
    int fd = real_openat(AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) die("open a file of its own");
    /* High, out of the way of a program that counts its descriptors. */
    int high = real_fcntl(fd, F_DUPFD_CLOEXEC, 900);
    if (high < 0) return fd;
    real_close(fd);
    return high;
}

static void start(void) {
    FIND(read); FIND(readv); FIND(pread); FIND(preadv);
    FIND(openat); FIND(close); FIND(write); FIND(writev); FIND(pwrite); FIND(pwritev); FIND(ftruncate);
    FIND(fsync); FIND(fdatasync); FIND(sync_file_range); FIND(renameat2); FIND(unlinkat); FIND(mkdirat);
    FIND(linkat); FIND(symlinkat); FIND(dup); FIND(dup2); FIND(dup3); FIND(fcntl); FIND(mmap); FIND(fallocate);
    FIND(copy_file_range); FIND(sendfile);
    const char *dir = getenv("GRANARY_DISK_ROOT");
    if (!dir) return;
    control = getenv("GRANARY_DISK_CONTROL");
    journal = append_to(getenv("GRANARY_DISK_JOURNAL"));
    strikes = append_to(getenv("GRANARY_DISK_STRIKES"));
    active = 1;
    snprintf(root, sizeof root, "%s", dir);
    root_len = strlen(root);
    trap_raw_calls();
}

__attribute__((constructor)) static void begin(void) { pthread_once(&once, start); }
#define BEGIN pthread_once(&once, start)

/* ---- paths ---- */

/* The absolute path without "." and "..", and whether it is the root or below it. Symbolic links are not followed. */
static int resolve(int dirfd, const char *path, char *out) {
    if (!active || !path) return 0;
    char full[2 * PATH_MAX];
    if (path[0] == '/') {
        snprintf(full, sizeof full, "%s", path);
    } else if (dirfd == AT_FDCWD) {
        char cwd[PATH_MAX];
        if (!getcwd(cwd, sizeof cwd)) return 0;
        snprintf(full, sizeof full, "%s/%s", cwd, path);
    } else {
        char link[64], dir[PATH_MAX];
        snprintf(link, sizeof link, "/proc/self/fd/%d", dirfd);
        ssize_t n = readlink(link, dir, sizeof dir - 1);
        if (n < 0) return 0;
        dir[n] = 0;
        snprintf(full, sizeof full, "%s/%s", dir, path);
    }
    size_t len = 0;
    char *rest = full, *part;
    while ((part = strsep(&rest, "/"))) {
        if (!*part || !strcmp(part, ".")) continue;
        if (!strcmp(part, "..")) {
            while (len && out[--len] != '/') {}
            continue;
        }
        size_t n = strlen(part);
        if (len + n + 2 > PATH_MAX) return 0;
        out[len++] = '/';
        memcpy(out + len, part, n);
        len += n;
    }
    out[len] = 0;
    return !strncmp(out, root, root_len) && (out[root_len] == '/' || !out[root_len]);
}

/* Paths go into the journal without the root. */
static const char *below(const char *full) { return full + root_len; }

static struct handle *held(int fd) {
    BEGIN;
    return fd >= 0 && fd < FDS ? atomic_load(&handles[fd]) : NULL;
}

/* Handles are never freed: another thread may be looking at one. */
static void hold(int fd, struct handle *handle) {
    if (fd >= FDS) { errno = EMFILE; die("descriptor"); }
    atomic_store(&handles[fd], handle);
}

/* ---- the journal; under the lock `disk` ---- */

static void record(struct record entry, const char *path, const char *to, const void *data) {
    if (journal < 0) return;
    entry.magic = 0x6b736964;
    entry.path_len = path ? strlen(path) : 0;
    entry.to_len = to ? strlen(to) : 0;
    struct iovec parts[] = {
        {&entry, sizeof entry}, {(void *)path, entry.path_len}, {(void *)to, entry.to_len}, {(void *)data, entry.data_len}};
    size_t total = sizeof entry + entry.path_len + entry.to_len + entry.data_len;
    int saved = errno;
    if (real_writev(journal, parts, 4) != (ssize_t)total) die("write journal");
    errno = saved;
    recorded++;
}

/* ---- faults ---- */

struct rule {
    char what[8], op[12], part[128];
    uint64_t n, times, error, seen;
};
static struct rule rules[RULES];
static int rule_count;
static struct timespec loaded_at;
static ino_t loaded_ino;
static uint64_t space_used;

/* Reads the control file when another one has been put in its place. */
static void load(void) {
    struct stat now;
    if (!control || stat(control, &now)) { rule_count = 0; return; }
    if (now.st_ino == loaded_ino && !memcmp(&now.st_mtim, &loaded_at, sizeof loaded_at)) return;
    loaded_ino = now.st_ino;
    loaded_at = now.st_mtim;
    rule_count = 0;
    space_used = 0;
    char text[8192];
    int fd = real_openat(AT_FDCWD, control, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : real_read(fd, text, sizeof text - 1);
    if (n < 0) die("read control file");
    real_close(fd);
    text[n] = 0;
    char *rest = text, *line;
    while ((line = strsep(&rest, "\n")) && rule_count < RULES) {
        struct rule rule = {0};
        unsigned long long a = 0, b = 0, c = 0;
        if (sscanf(line, "%7s %11s %llu %llu %llu %127[^\n]", rule.what, rule.op, &a, &b, &c, rule.part) < 5) continue;
        rule.n = a; rule.times = b; rule.error = c;
        rules[rule_count++] = rule;
    }
}

static int concerns(struct rule *rule, const char *op, const char *path) {
    return !strcmp(rule->op, op) && strstr(path, rule->part);
}

/* Tells that a rule has struck: once for each operation, or once for all that wait. Under the lock `faults`. */
static void tell(struct rule *rule, const char *path) {
    if (strikes < 0) return;
    char line[PATH_MAX + 64];
    int len = snprintf(line, sizeof line, "%s %s %s\n", rule->what, rule->op, path);
    if (len >= (int)sizeof line) len = sizeof line - 1;
    int saved = errno;
    if (real_write(strikes, line, len) != len) die("write strikes");
    errno = saved;
}

/* Waits, kills or returns the error that the operation is to fail with, or 0. */
static int gate(const char *op, const char *full) {
    const char *path = below(full);
    for (int hung = 0;;) {
        uint64_t wait_us = 0;
        int hang = 0, error = 0;
        pthread_mutex_lock(&faults);
        load();
        for (int i = 0; i < rule_count; i++) {
            struct rule *rule = &rules[i];
            if (!concerns(rule, op, path)) continue;
            if (!strcmp(rule->what, "hang")) {
                if (!hung) tell(rule, path);
                hang = hung = 1;
                break;
            }
            if (!strcmp(rule->what, "delay")) { wait_us += rule->n; tell(rule, path); continue; }
            if (!strcmp(rule->what, "space")) continue;
            uint64_t seen = ++rule->seen;
            if (seen < rule->n || (rule->times && seen >= rule->n + rule->times)) continue;
            tell(rule, path);
            if (!strcmp(rule->what, "kill")) raise(SIGKILL);
            error = (int)rule->error;
        }
        pthread_mutex_unlock(&faults);
        if (hang) { usleep(1000); continue; }
        if (wait_us) usleep(wait_us);
        return error;
    }
}

/* How many of `len` bytes still fit. */
static size_t room(const char *full, size_t len) {
    pthread_mutex_lock(&faults);
    for (int i = 0; i < rule_count; i++) {
        if (strcmp(rules[i].what, "space") || !concerns(&rules[i], "write", below(full))) continue;
        uint64_t left = rules[i].n > space_used ? rules[i].n - space_used : 0;
        if (len > left) { len = left; tell(&rules[i], below(full)); }
        space_used += len;
    }
    pthread_mutex_unlock(&faults);
    return len;
}

/* ---- operations ---- */

static int open_at(int dirfd, const char *path, int flags, mode_t mode) {
    BEGIN;
    char full[PATH_MAX];
    if (!resolve(dirfd, path, full)) return real_openat(dirfd, path, flags, mode);
    if ((flags & O_TMPFILE) == O_TMPFILE) { errno = EOPNOTSUPP; return -1; }
    int writes = (flags & O_ACCMODE) != O_RDONLY || flags & O_CREAT, note = !strcmp(below(full), "/.note");
    int error = writes && !note ? gate("open", full) : 0;
    if (error) { errno = error; return -1; }
    struct handle *handle = calloc(1, sizeof *handle + strlen(full) + 1);
    if (!handle) return -1;
    strcpy(handle->path, full);
    handle->append = !!(flags & O_APPEND);
    handle->note = note;
    pthread_mutex_lock(&disk);
    struct stat found;
    int existed = !(flags & O_CREAT) || !lstat(full, &found);
    int fd = note ? real_openat(AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC) : real_openat(dirfd, path, flags, mode);
    if (fd >= 0) {
        handle->id = ++opened;
        if (!note) {
            int dir = !fstat(fd, &found) && S_ISDIR(found.st_mode);
            int what = (existed ? 0 : CREATED) | (flags & O_TRUNC && writes ? TRUNCATED : 0) | (dir ? DIRECTORY : 0);
            record((struct record){.kind = OPEN, .flags = what, .handle = handle->id}, below(full), NULL, NULL);
        }
        hold(fd, handle);
    }
    pthread_mutex_unlock(&disk);
    if (fd < 0) { int saved = errno; free(handle); errno = saved; }
    return fd;
}

#define MODE(flags, last) \
    mode_t mode = 0;      \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { va_list args; va_start(args, last); mode = va_arg(args, mode_t); va_end(args); }

int open(const char *path, int flags, ...) { MODE(flags, flags) return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags, flags) return open_at(AT_FDCWD, path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE(flags, flags) return open_at(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE(flags, flags) return open_at(dir, path, flags, mode); }
int creat(const char *path, mode_t mode) { return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

int close(int fd) {
    if (!held(fd)) return real_close(fd);
    pthread_mutex_lock(&disk);
    atomic_store(&handles[fd], NULL);
    int result = real_close(fd);
    pthread_mutex_unlock(&disk);
    return result;
}

/* Whether a read may go on. It changes nothing, so it is not recorded. */
static int may_read(int fd) {
    struct handle *handle = held(fd);
    int error = handle && !handle->note ? gate("read", handle->path) : 0;
    if (error) errno = error;
    return !error;
}
ssize_t read(int fd, void *data, size_t len) { return may_read(fd) ? real_read(fd, data, len) : -1; }
ssize_t readv(int fd, const struct iovec *parts, int count) { return may_read(fd) ? real_readv(fd, parts, count) : -1; }
ssize_t pread(int fd, void *data, size_t len, off_t offset) {
    return may_read(fd) ? real_pread(fd, data, len, offset) : -1;
}
ssize_t pread64(int fd, void *data, size_t len, off_t offset) { return pread(fd, data, len, offset); }
ssize_t preadv(int fd, const struct iovec *parts, int count, off_t offset) {
    return may_read(fd) ? real_preadv(fd, parts, count, offset) : -1;
}
ssize_t preadv64(int fd, const struct iovec *parts, int count, off_t offset) { return preadv(fd, parts, count, offset); }

static ssize_t write_at(struct handle *handle, int fd, const void *data, size_t len, off_t offset) {
    if (handle->note) {
        pthread_mutex_lock(&disk);
        record((struct record){.kind = NOTE, .data_len = len}, NULL, NULL, data);
        pthread_mutex_unlock(&disk);
        return len;
    }
    int error = gate("write", handle->path);
    if (!error && len && !(len = room(handle->path, len))) error = ENOSPC;
    if (error) { errno = error; return -1; }
    pthread_mutex_lock(&disk);
    ssize_t written = offset < 0 ? real_write(fd, data, len) : real_pwrite(fd, data, len, offset);
    if (written > 0) {
        struct stat found;
        if (handle->append && !fstat(fd, &found)) offset = found.st_size - written;
        else if (offset < 0) offset = lseek(fd, 0, SEEK_CUR) - written;
        record((struct record){.kind = WRITE, .handle = handle->id, .offset = offset, .data_len = written}, NULL, NULL, data);
    }
    pthread_mutex_unlock(&disk);
    return written;
}

static ssize_t writev_at(struct handle *handle, int fd, const struct iovec *parts, int count, off_t offset) {
    size_t len = 0, at = 0;
    for (int i = 0; i < count; i++) len += parts[i].iov_len;
    char *whole = malloc(len ? len : 1);
    if (!whole) return -1;
    for (int i = 0; i < count; at += parts[i++].iov_len) memcpy(whole + at, parts[i].iov_base, parts[i].iov_len);
    ssize_t written = write_at(handle, fd, whole, len, offset);
    int saved = errno;
    free(whole);
    errno = saved;
    return written;
}

ssize_t write(int fd, const void *data, size_t len) {
    struct handle *handle = held(fd);
    return handle ? write_at(handle, fd, data, len, -1) : real_write(fd, data, len);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    struct handle *handle = held(fd);
    return handle ? writev_at(handle, fd, parts, count, -1) : real_writev(fd, parts, count);
}
ssize_t pwrite(int fd, const void *data, size_t len, off_t offset) {
    struct handle *handle = held(fd);
    return handle ? write_at(handle, fd, data, len, offset) : real_pwrite(fd, data, len, offset);
}
ssize_t pwrite64(int fd, const void *data, size_t len, off_t offset) { return pwrite(fd, data, len, offset); }
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    struct handle *handle = held(fd);
    return handle ? writev_at(handle, fd, parts, count, offset) : real_pwritev(fd, parts, count, offset);
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t offset) { return pwritev(fd, parts, count, offset); }

int ftruncate(int fd, off_t len) {
    struct handle *handle = held(fd);
    if (!handle || handle->note) return handle ? 0 : real_ftruncate(fd, len);
    int error = gate("truncate", handle->path);
    if (error) { errno = error; return -1; }
    pthread_mutex_lock(&disk);
    int result = real_ftruncate(fd, len);
    if (!result) record((struct record){.kind = TRUNCATE, .handle = handle->id, .offset = len}, NULL, NULL, NULL);
    pthread_mutex_unlock(&disk);
    return result;
}
int ftruncate64(int fd, off_t len) { return ftruncate(fd, len); }

int truncate(const char *path, off_t len) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    int result = ftruncate(fd, len), saved = errno;
    close(fd);
    errno = saved;
    return result;
}
int truncate64(const char *path, off_t len) { return truncate(path, len); }

static int sync_of(int fd, int (*real)(int)) {
    struct handle *handle = held(fd);
    if (!handle || handle->note) return handle ? 0 : real(fd);
    pthread_mutex_lock(&disk);
    uint64_t covers = recorded;
    pthread_mutex_unlock(&disk);
    int error = gate("sync", handle->path);
    int result = error ? -1 : real(fd);
    if (!error && result) error = errno;
    pthread_mutex_lock(&disk);
    record((struct record){.kind = SYNC, .error = error, .handle = handle->id, .begin = covers}, NULL, NULL, NULL);
    pthread_mutex_unlock(&disk);
    if (result) errno = error;
    return result;
}
int fsync(int fd) { BEGIN; return sync_of(fd, real_fsync); }
int fdatasync(int fd) { BEGIN; return sync_of(fd, real_fdatasync); }

/* Starts writing out; promises nothing. */
int sync_file_range(int fd, off_t offset, off_t len, unsigned flags) {
    struct handle *handle = held(fd);
    if (!handle) return real_sync_file_range(fd, offset, len, flags);
    int error = gate("range", handle->path);
    if (error) { errno = error; return -1; }
    int result = real_sync_file_range(fd, offset, len, flags);
    pthread_mutex_lock(&disk);
    record((struct record){.kind = RANGE, .handle = handle->id, .offset = offset}, NULL, NULL, NULL);
    pthread_mutex_unlock(&disk);
    return result;
}

static int rename_at(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    BEGIN;
    char full[PATH_MAX], full_to[PATH_MAX];
    int inside = resolve(from_dir, from, full), to_inside = resolve(to_dir, to, full_to);
    if (!inside && !to_inside) return real_renameat2(from_dir, from, to_dir, to, flags);
    if (inside != to_inside) { errno = EXDEV; return -1; }
    if (flags & ~RENAME_NOREPLACE) { errno = EINVAL; return -1; }
    int error = gate("rename", full);
    if (!error) error = gate("rename", full_to);
    if (error) { errno = error; return -1; }
    pthread_mutex_lock(&disk);
    int result = real_renameat2(from_dir, from, to_dir, to, flags);
    if (!result) record((struct record){.kind = RENAME}, below(full), below(full_to), NULL);
    pthread_mutex_unlock(&disk);
    return result;
}
int rename(const char *from, const char *to) { return rename_at(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int a, const char *from, int b, const char *to) { return rename_at(a, from, b, to, 0); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) { return rename_at(a, from, b, to, flags); }

int unlinkat(int dirfd, const char *path, int flags) {
    BEGIN;
    char full[PATH_MAX];
    if (!resolve(dirfd, path, full)) return real_unlinkat(dirfd, path, flags);
    int error = gate("unlink", full);
    if (error) { errno = error; return -1; }
    pthread_mutex_lock(&disk);
    int result = real_unlinkat(dirfd, path, flags);
    if (!result) record((struct record){.kind = flags & AT_REMOVEDIR ? RMDIR : UNLINK}, below(full), NULL, NULL);
    pthread_mutex_unlock(&disk);
    return result;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int remove(const char *path) {
    int result = unlinkat(AT_FDCWD, path, 0);
    return result && errno == EISDIR ? unlinkat(AT_FDCWD, path, AT_REMOVEDIR) : result;
}

int mkdirat(int dirfd, const char *path, mode_t mode) {
    BEGIN;
    char full[PATH_MAX];
    if (!resolve(dirfd, path, full)) return real_mkdirat(dirfd, path, mode);
    int error = gate("mkdir", full);
    if (error) { errno = error; return -1; }
    pthread_mutex_lock(&disk);
    int result = real_mkdirat(dirfd, path, mode);
    if (!result) record((struct record){.kind = MKDIR}, below(full), NULL, NULL);
    pthread_mutex_unlock(&disk);
    return result;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

/* ---- descriptors ---- */

static int duplicated(int fd, int copy) {
    if (copy >= 0 && copy < FDS) hold(copy, atomic_load(&handles[fd]));
    return copy;
}
int dup(int fd) { return held(fd) ? duplicated(fd, real_dup(fd)) : real_dup(fd); }
int dup2(int fd, int to) { return held(fd) || held(to) ? duplicated(fd, real_dup2(fd, to)) : real_dup2(fd, to); }
int dup3(int fd, int to, int flags) {
    return held(fd) || held(to) ? duplicated(fd, real_dup3(fd, to, flags)) : real_dup3(fd, to, flags);
}
static int control_of(int fd, int command, void *arg) {
    int result = real_fcntl(fd, command, arg);
    return held(fd) && (command == F_DUPFD || command == F_DUPFD_CLOEXEC) ? duplicated(fd, result) : result;
}
#define ARGUMENT va_list args; va_start(args, command); void *arg = va_arg(args, void *); va_end(args);
int fcntl(int fd, int command, ...) { BEGIN; ARGUMENT return control_of(fd, command, arg); }
int fcntl64(int fd, int command, ...) { BEGIN; ARGUMENT return control_of(fd, command, arg); }

/* ---- refused ---- */

void *mmap(void *at, size_t len, int protection, int flags, int fd, off_t offset) {
    if (held(fd) && flags & MAP_SHARED && protection & PROT_WRITE) { errno = ENODEV; return MAP_FAILED; }
    return real_mmap(at, len, protection, flags, fd, offset);
}
void *mmap64(void *at, size_t len, int protection, int flags, int fd, off_t offset) {
    return mmap(at, len, protection, flags, fd, offset);
}
int fallocate(int fd, int mode, off_t offset, off_t len) {
    if (held(fd)) { errno = EOPNOTSUPP; return -1; }
    return real_fallocate(fd, mode, offset, len);
}
int fallocate64(int fd, int mode, off_t offset, off_t len) { return fallocate(fd, mode, offset, len); }
int posix_fallocate(int fd, off_t offset, off_t len) { return fallocate(fd, 0, offset, len) ? errno : 0; }
int posix_fallocate64(int fd, off_t offset, off_t len) { return posix_fallocate(fd, offset, len); }
ssize_t copy_file_range(int in, off_t *from, int out, off_t *to, size_t len, unsigned flags) {
    if (held(out)) { errno = ENOSYS; return -1; }
    return real_copy_file_range(in, from, out, to, len, flags);
}
ssize_t sendfile(int out, int in, off_t *offset, size_t len) {
    if (held(out)) { errno = EINVAL; return -1; }
    return real_sendfile(out, in, offset, len);
}
ssize_t sendfile64(int out, int in, off_t *offset, size_t len) { return sendfile(out, in, offset, len); }
int linkat(int a, const char *from, int b, const char *to, int flags) {
    BEGIN;
    char full[PATH_MAX];
    if (resolve(b, to, full)) { errno = EPERM; return -1; }
    return real_linkat(a, from, b, to, flags);
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }
int symlinkat(const char *target, int dirfd, const char *path) {
    BEGIN;
    char full[PATH_MAX];
    if (resolve(dirfd, path, full)) { errno = EPERM; return -1; }
    return real_symlinkat(target, dirfd, path);
}
int symlink(const char *target, const char *path) { return symlinkat(target, AT_FDCWD, path); }

/* ---- system calls that go round the C library ---- */

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#define ARG(at, n) ((at)->uc_mcontext.gregs[(int[]){REG_RDI, REG_RSI, REG_RDX, REG_R10, REG_R8}[n]])
#define RESULT(at) ((at)->uc_mcontext.gregs[REG_RAX])
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#define ARG(at, n) ((at)->uc_mcontext.regs[n])
#define RESULT(at) ((at)->uc_mcontext.regs[0])
#else
#error "this machine's registers are not known here"
#endif

static const int trapped[] = {
    SYS_openat, SYS_close, SYS_write, SYS_writev, SYS_pwrite64, SYS_pwritev, SYS_ftruncate, SYS_fsync, SYS_fdatasync,
    SYS_sync_file_range, SYS_renameat2, SYS_unlinkat, SYS_mkdirat, SYS_linkat, SYS_symlinkat, SYS_dup, SYS_dup3,
    SYS_fallocate, SYS_copy_file_range, SYS_sendfile,
    /* Not seen, and refused; their callers fall back. */
    SYS_openat2, SYS_pwritev2, SYS_io_uring_setup,
#ifdef SYS_renameat
    SYS_renameat,
#endif
#ifdef SYS_open
    SYS_open, SYS_creat, SYS_rename, SYS_unlink, SYS_rmdir, SYS_mkdir, SYS_link, SYS_symlink, SYS_dup2,
#endif
};
#define TRAPPED (sizeof trapped / sizeof *trapped)

static long redo(int call, ucontext_t *at) {
#define A(n) ARG(at, n)
#define P(n) ((void *)ARG(at, n))
    switch (call) {
    case SYS_openat: return open_at(A(0), P(1), A(2), A(3));
    case SYS_close: return close(A(0));
    case SYS_write: return write(A(0), P(1), A(2));
    case SYS_writev: return writev(A(0), P(1), A(2));
    case SYS_pwrite64: return pwrite(A(0), P(1), A(2), A(3));
    case SYS_pwritev: return pwritev(A(0), P(1), A(2), A(3));
    case SYS_ftruncate: return ftruncate(A(0), A(1));
    case SYS_fsync: return fsync(A(0));
    case SYS_fdatasync: return fdatasync(A(0));
    case SYS_sync_file_range: return sync_file_range(A(0), A(1), A(2), A(3));
    case SYS_renameat2: return rename_at(A(0), P(1), A(2), P(3), A(4));
    case SYS_unlinkat: return unlinkat(A(0), P(1), A(2));
    case SYS_mkdirat: return mkdirat(A(0), P(1), A(2));
    case SYS_linkat: return linkat(A(0), P(1), A(2), P(3), A(4));
    case SYS_symlinkat: return symlinkat(P(0), A(1), P(2));
    case SYS_dup: return dup(A(0));
    case SYS_dup3: return dup3(A(0), A(1), A(2));
    case SYS_fallocate: return fallocate(A(0), A(1), A(2), A(3));
    case SYS_copy_file_range: return copy_file_range(A(0), P(1), A(2), P(3), A(4), 0);
    case SYS_sendfile: return sendfile(A(0), A(1), P(2), A(3));
#ifdef SYS_renameat
    case SYS_renameat: return rename_at(A(0), P(1), A(2), P(3), 0);
#endif
#ifdef SYS_open
    case SYS_open: return open_at(AT_FDCWD, P(0), A(1), A(2));
    case SYS_creat: return creat(P(0), A(1));
    case SYS_rename: return rename(P(0), P(1));
    case SYS_unlink: return unlink(P(0));
    case SYS_rmdir: return rmdir(P(0));
    case SYS_mkdir: return mkdir(P(0), A(1));
    case SYS_link: return link(P(0), P(1));
    case SYS_symlink: return symlink(P(0), P(1));
    case SYS_dup2: return dup2(A(0), A(1));
#endif
    default: errno = ENOSYS; return -1;
    }
}

static void on_trap(int number, siginfo_t *info, void *at) {
    (void)number;
    int saved = errno;
    long result = redo(info->si_syscall, at);
    RESULT((ucontext_t *)at) = result == -1 ? -errno : result;
    errno = saved;
}

#define FILTER_MAX 256
static struct sock_filter filter[FILTER_MAX];
static unsigned short filter_len;

static void emit(unsigned short code, uint32_t k, unsigned char yes, unsigned char no) {
    if (filter_len >= FILTER_MAX) die("filter");
    filter[filter_len++] = (struct sock_filter){code, yes, no, k};
}

/* Lets calls pass from instructions in a range within one span of 4 GiB. */
static void emit_pass(uint64_t from, uint64_t to) {
    size_t ip = offsetof(struct seccomp_data, instruction_pointer);
    emit(BPF_LD | BPF_W | BPF_ABS, ip + 4, 0, 0);
    emit(BPF_JMP | BPF_JEQ | BPF_K, from >> 32, 0, 4);
    emit(BPF_LD | BPF_W | BPF_ABS, ip, 0, 0);
    emit(BPF_JMP | BPF_JGE | BPF_K, (uint32_t)from, 0, 2);
    emit(BPF_JMP | BPF_JGT | BPF_K, (uint32_t)(to - 1), 1, 0);
    emit(BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
}

/* Traps the calls above from everywhere but the C library. A process that is started by this one inherits that without
 * this library's place in it, and dies. */
static void trap_raw_calls(void) {
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[PATH_MAX + 128], rights[8];
    unsigned long from, to;
    if (!maps) die("read /proc/self/maps");
    while (fgets(line, sizeof line, maps)) {
        if (!strstr(line, "/libc.so.6") || sscanf(line, "%lx-%lx %7s", &from, &to, rights) != 3 || !strchr(rights, 'x')) continue;
        uint64_t border = (uint64_t)(from >> 32) + 1 << 32;
        emit_pass(from, to < border ? to : border);
        if (to > border) emit_pass(border, to);
    }
    fclose(maps);
    if (!filter_len) die("find the C library");
    emit(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr), 0, 0);
    for (size_t i = 0; i < TRAPPED; i++) emit(BPF_JMP | BPF_JEQ | BPF_K, trapped[i], TRAPPED - i, 0);
    emit(BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
    emit(BPF_RET | BPF_K, SECCOMP_RET_TRAP, 0, 0);
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_NODEFER | SA_RESTART};
    struct sock_fprog program = {filter_len, filter};
    if (sigaction(SIGSYS, &action, NULL)) die("handle SIGSYS");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) die("trap raw calls");
}
