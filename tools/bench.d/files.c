// What programs do with files, timed: each step's name and microseconds, a line each.
//
// usage: files DIR MIB COUNT
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char block[1 << 20];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void check(int ok, const char *what) {
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static double since;

static void step(const char *name) {
    double end = now();
    printf("%s\t%.0f\n", name, end - since);
    fflush(stdout);
    since = now();
}

int main(int argc, char **argv) {
    check(argc == 4 && chdir(argv[1]) == 0, "usage: files DIR MIB COUNT");
    int mib = atoi(argv[2]), count = atoi(argv[3]);
    char name[32];
    struct stat st;
    memset(block, 'x', sizeof block);

    since = now();
    int fd = open("large", O_CREAT | O_TRUNC | O_RDWR, 0644);
    check(fd >= 0, "large");
    for (int i = 0; i < mib; i++) check(write(fd, block, sizeof block) == sizeof block, "write");
    check(fsync(fd) == 0, "fsync");
    step("sequential write");
    // What this side has cached is let go of: the other side's cache stays, as it does for others' files.
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    check(lseek(fd, 0, SEEK_SET) == 0, "seek");
    since = now();
    for (int i = 0; i < mib; i++) check(read(fd, block, sizeof block) == sizeof block, "read");
    step("sequential read");
    close(fd);
    check(unlink("large") == 0, "unlink");

    check(mkdir("many", 0755) == 0 && chdir("many") == 0, "many");
    since = now();
    for (int i = 0; i < count; i++) {
        snprintf(name, sizeof name, "f%d", i);
        fd = open(name, O_CREAT | O_EXCL | O_WRONLY, 0644);
        check(fd >= 0 && write(fd, block, 1024) == 1024 && close(fd) == 0, name);
    }
    step("create small files");
    for (int i = 0; i < count; i++) {
        snprintf(name, sizeof name, "f%d", i);
        check(lstat(name, &st) == 0, name);
    }
    step("stat them");
    for (int i = 0; i < count; i++) {
        snprintf(name, sizeof name, "f%d", i);
        fd = open(name, O_RDONLY);
        check(fd >= 0 && read(fd, block, 2048) == 1024 && close(fd) == 0, name);
    }
    step("open and read them");
    DIR *dir = opendir(".");
    check(dir != NULL, "opendir");
    int seen = 0;
    for (struct dirent *e; (e = readdir(dir)) != NULL;)
        if (fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0) seen++;
    closedir(dir);
    check(seen >= count, "readdir");
    step("list with attributes");
    for (int i = 0; i < count; i++) {
        snprintf(name, sizeof name, "f%d", i);
        check(unlink(name) == 0, name);
    }
    step("remove them");
    check(chdir("..") == 0 && rmdir("many") == 0, "rmdir");
    return 0;
}
