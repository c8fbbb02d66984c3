// What iperf3 does not measure, and what has a guest do things: see usage.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const char USAGE[] =
    "usage: network serve            echo on port 7000, shell commands (a line each) on port 7001\n"
    "       network ready HOST PORT  connect once: this guest takes connections\n"
    "       network ask HOST COMMAND what a command prints at HOST, which serves\n"
    "       network pings HOST N     N times one byte there and back: each one's nanoseconds, a line each\n";

static void check(int ok, const char *what) {
    if (!ok) {
        perror(what);
        exit(1);
    }
}

static int reach(const char *host, const char *port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    int one = 1, s = socket(AF_INET, SOCK_STREAM, 0);
    check(inet_pton(AF_INET, host, &to.sin_addr) == 1, host);
    check(s >= 0 && connect(s, (struct sockaddr *)&to, sizeof to) == 0, host);
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return s;
}

static int offer(unsigned short port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    int one = 1, s = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    check(s >= 0 && bind(s, (struct sockaddr *)&at, sizeof at) == 0 && listen(s, 8) == 0, "listen");
    return s;
}

static void echo(int s) {
    char bytes[4096];
    int one = 1;
    setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    for (ssize_t n; (n = read(s, bytes, sizeof bytes)) > 0;)
        if (write(s, bytes, n) != n) return;
}

static void command(int s) {
    char line[1024];
    size_t n = 0;
    while (n < sizeof line - 1 && read(s, line + n, 1) == 1 && line[n] != '\n') n++;
    line[n] = 0;
    dup2(s, 0), dup2(s, 1), dup2(s, 2);
    execl("/bin/sh", "sh", "-c", line, NULL);
    perror("/bin/sh");
}

static void serve(unsigned short port, void (*answer)(int)) {
    int listening = offer(port);
    if (fork() != 0) {
        close(listening);
        return;
    }
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        int s = accept(listening, NULL, NULL);
        check(s >= 0, "accept");
        if (fork() == 0) {
            close(listening);
            answer(s);
            exit(0);
        }
        close(s);
    }
}

static void pings(int s, int count) {
    long long *took = calloc(count, sizeof *took);
    char byte = 'x';
    for (int i = 0; i < count; i++) {
        struct timespec from, to;
        clock_gettime(CLOCK_MONOTONIC, &from);
        check(write(s, &byte, 1) == 1 && read(s, &byte, 1) == 1, "ping");
        clock_gettime(CLOCK_MONOTONIC, &to);
        took[i] = (to.tv_sec - from.tv_sec) * 1000000000LL + to.tv_nsec - from.tv_nsec;
    }
    for (int i = 0; i < count; i++) printf("%lld\n", took[i]);
}

int main(int argc, char **argv) {
    const char *verb = argc > 1 ? argv[1] : "";
    if (argc == 2 && !strcmp(verb, "serve")) {
        serve(7000, echo);
        serve(7001, command);
    } else if (argc == 4 && !strcmp(verb, "ready")) {
        reach(argv[2], argv[3]);
    } else if (argc == 4 && !strcmp(verb, "ask")) {
        char bytes[4096];
        int s = reach(argv[2], "7001");
        dprintf(s, "%s\n", argv[3]);
        for (ssize_t n; (n = read(s, bytes, sizeof bytes)) > 0;) fwrite(bytes, 1, n, stdout);
    } else if (argc == 4 && !strcmp(verb, "pings") && atoi(argv[3]) > 0) {
        pings(reach(argv[2], "7000"), atoi(argv[3]));
    } else {
        fputs(USAGE, stderr);
        return 2;
    }
    return 0;
}
