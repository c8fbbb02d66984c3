/* What holds the namespaces of a pod with a runtime that has no sandbox of its own: waits for a signal that ends it,
 * and for whoever has died. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int signal) {
    (void)signal;
    _exit(0);
}

static void reap(int signal) {
    (void)signal;
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
}

int main(void) {
    const struct sigaction ending = {.sa_handler = end}, reaping = {.sa_handler = reap, .sa_flags = SA_NOCLDSTOP};
    if (sigaction(SIGINT, &ending, NULL) != 0 || sigaction(SIGTERM, &ending, NULL) != 0 ||
        sigaction(SIGCHLD, &reaping, NULL) != 0)
        return 1;
    for (;;)
        pause();
}
