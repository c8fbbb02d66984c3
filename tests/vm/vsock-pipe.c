/* The guest's end of vsock connections for shell scripts: programs whose standard input and output are one.
 *
 * vsock-pipe serve PORT PROGRAM...   runs PROGRAM for each who calls; goes to the background once it listens
 * vsock-pipe dial PORT PROGRAM...    calls the host, then becomes PROGRAM
 * vsock-pipe shut                    in such a program: sends no more, still receives
 */
#include <linux/vm_sockets.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void check(int result, const char *what)
{
    if (result < 0) {
        perror(what);
        exit(1);
    }
}

static void become(int connection, char **program)
{
    check(dup2(connection, 0), "dup2");
    check(dup2(connection, 1), "dup2");
    close(connection);
    execvp(program[0], program);
    check(-1, program[0]);
}

int main(int count, char **words)
{
    if (count == 2 && !strcmp(words[1], "shut")) {
        check(shutdown(1, SHUT_WR), "shutdown");
        return 0;
    }
    int serve = count > 3 && !strcmp(words[1], "serve");
    if (!serve && !(count > 3 && !strcmp(words[1], "dial")))
        return 2;
    struct sockaddr_vm address = {
        .svm_family = AF_VSOCK,
        .svm_cid = serve ? VMADDR_CID_ANY : VMADDR_CID_HOST,
        .svm_port = strtoul(words[2], NULL, 10),
    };
    int connection = socket(AF_VSOCK, SOCK_STREAM, 0);
    check(connection, "socket");
    if (!serve) {
        check(connect(connection, (void *)&address, sizeof address), "connect");
        become(connection, words + 3);
    }
    check(bind(connection, (void *)&address, sizeof address), "bind");
    check(listen(connection, 128), "listen");
    check(daemon(1, 1), "daemon");
    /* Nobody waits for the programs. */
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        int caller = accept(connection, NULL, NULL);
        check(caller, "accept");
        if (fork() == 0) {
            close(connection);
            become(caller, words + 3);
        }
        close(caller);
    }
}
