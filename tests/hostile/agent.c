/* The first process of a guest, in place of the agent: it says hello as the agent does, and then does to its
 * host what the word in /attack says. */
#include <linux/vm_sockets.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <unistd.h>

#define READY_PORT 1024
#define RPC_PORT 1024
#define STREAM_PORT 1025

#define HELLO "{\"version\":1,\"entered_us\":1,\"ready_us\":2}"
#define DONE "{\"reply\":\"done\"}"
#define CREATED "{\"reply\":\"created\",\"pid\":7}"

#define MEBIBYTE (1 << 20)
#define LARGEST (4 * MEBIBYTE)

static char attack[64];
/* The connections: the one of events, and that of requests. */
static int ready, rpc;
static int requests, streams;

static int is(const char *name) { return !strcmp(attack, name); }

static int at_port(int cid, int port, int (*to)(int, const struct sockaddr *, socklen_t))
{
    struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = cid, .svm_port = port};
    int connection = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (connection >= 0 && to(connection, (void *)&address, sizeof address) < 0) {
        close(connection);
        return -1;
    }
    return connection;
}

static void put(int to, const void *bytes, size_t count)
{
    for (const char *at = bytes; count;) {
        ssize_t n = write(to, at, count);
        if (n <= 0)
            return;
        at += n;
        count -= n;
    }
}

/* A frame that says that it has `claimed` bytes. */
static void frame_of(int to, uint32_t claimed, const void *bytes, size_t count)
{
    put(to, &claimed, 4);
    put(to, bytes, count);
}

static void frame(int to, const char *text) { frame_of(to, strlen(text), text, strlen(text)); }

/* A message with `count` times `letters` between `before` and `after`. */
static void long_frame(int to, const char *before, const char *letters, size_t count, const char *after)
{
    size_t each = strlen(letters), size = strlen(before) + each * count + strlen(after);
    char *text = malloc(size + 1), *at = stpcpy(text, before);
    for (size_t n = 0; n < count; n++)
        at = stpcpy(at, letters);
    strcpy(at, after);
    frame_of(to, size, text, size);
    free(text);
}

/* The next request, or nothing where the host has gone. */
static char *request(void)
{
    uint32_t size;
    char *text;
    if (recv(rpc, &size, 4, MSG_WAITALL) != 4 || !(text = calloc(1, size + 1)))
        return NULL;
    return recv(rpc, text, size, MSG_WAITALL) == (ssize_t)size ? text : NULL;
}

static int asks_for(const char *text, const char *name)
{
    char word[64];
    snprintf(word, sizeof word, "\"request\":\"%s\"", name);
    return strstr(text, word) != NULL;
}

/* Waits for what the host does: for ever. */
static void stay(void)
{
    for (;;)
        pause();
}

static void over(void)
{
    reboot(RB_AUTOBOOT);
    stay();
}

static void endless(int to)
{
    static char much[65536];
    memset(much, ' ', sizeof much);
    while (write(to, much, sizeof much) > 0)
        ;
}

static void hello(void)
{
    if (is("hello-oversized")) {
        frame_of(ready, 0xffffffff, "{", 1);
        endless(ready);
    } else if (is("hello-no-json")) {
        frame(ready, "\033[2Jnot json");
    } else if (is("hello-nested")) {
        long_frame(ready, "{\"version\":", "[", LARGEST - 20, "");
    } else if (is("hello-version")) {
        frame(ready, "{\"version\":4294967295,\"entered_us\":1,\"ready_us\":2}");
    } else if (is("hello-number")) {
        frame(ready, "{\"version\":1,\"entered_us\":1e999,\"ready_us\":2}");
    } else if (is("hello-half")) {
        frame_of(ready, 100, HELLO, 10);
        close(ready);
    } else if (is("hello-blank")) {
        frame_of(ready, LARGEST, "", 0);
        endless(ready);
    } else {
        frame(ready, HELLO);
        return;
    }
    stay();
}

/* A stream's connection, its greeting taken. */
static int stream(void)
{
    int connection = accept(streams, NULL, NULL);
    uint32_t size;
    char greeting[256];
    recv(connection, &size, 4, MSG_WAITALL);
    recv(connection, greeting, size < sizeof greeting ? size : sizeof greeting, MSG_WAITALL);
    return connection;
}

/* What the host gets where it asked for a container. */
static void create(void)
{
    if (is("create-closed"))
        close(rpc);
    else if (is("create-oversized"))
        frame_of(rpc, LARGEST + 1, "{", 1);
    else if (is("create-other"))
        frame(rpc, "{\"reply\":\"exited\",\"code\":0}");
    else if (is("create-number"))
        frame(rpc, "{\"reply\":\"created\",\"pid\":99999999999999999999}");
    else if (is("create-nested"))
        long_frame(rpc, "{\"reply\":\"created\",\"pid\":", "{\"a\":", LARGEST / 5 - 20, "");
    else if (is("create-error"))
        long_frame(rpc, "{\"reply\":\"error\",\"kind\":\"internal\",\"message\":\"", "\\u001b[2J\\n", 300000, "\"}");
    else if (is("create-kind"))
        frame(rpc, "{\"reply\":\"error\",\"kind\":\"other\",\"message\":\"m\"}");
    else if (is("create-unasked"))
        for (int n = 0; n < 100000; n++)
            frame(rpc, DONE);
    else if (is("create-silent")) {
        /* Streams are connected while the container is made. */
        put(stream(), "ready\n", 6);
        stay();
    } else if (is("create-death"))
        over();
    else {
        frame(rpc, CREATED);
        return;
    }
    stay();
}

/* Answers the wait for the program's end with this code. */
static void exits(const char *code)
{
    char text[100];
    snprintf(text, sizeof text, "{\"reply\":\"exited\",\"code\":%s}", code);
    frame(rpc, text);
}

/* The program runs, as far as the host knows. */
static void runs(void)
{
    int out = stream(), err = stream();
    if (is("exit-negative")) {
        exits("-1");
    } else if (is("exit-number")) {
        exits("99999999999");
    } else if (is("exit-half")) {
        frame_of(rpc, 100, "{", 1);
        over();
    } else if (is("exit-twice")) {
        for (int n = 0; n < 1000; n++)
            exits("5");
    } else if (is("event-fatal")) {
        long_frame(ready, "{\"event\":\"fatal\",\"message\":\"", "\\u001b[2J", 300000, "\"}");
    } else if (is("event-flood")) {
        for (int n = 0; n < 3000; n++)
            frame(ready, "{\"event\":\"out_of_memory\",\"container\":\"main\"}");
        exits("6");
    } else if (is("event-oversized")) {
        frame_of(ready, 0xffffffff, "{", 1);
        exits("7");
    } else if (is("event-half")) {
        frame_of(ready, 100, "{", 1);
        put(out, "ready\n", 6);
        /* Signals come on a connection of their own. */
        int answers = rpc;
        rpc = accept(requests, NULL, NULL);
        request();
        frame(rpc, HELLO);
        char *kill = request();
        rpc = answers;
        exits(kill && asks_for(kill, "kill") ? "11" : "99");
    } else if (is("output-endless")) {
        endless(out);
        exits("8");
    } else if (is("output-open")) {
        put(out, "ready\n", 6);
        exits("9");
        stay();
    } else if (is("calls")) {
        int reached = 0;
        for (int n = 0; n < 1500; n++)
            reached += at_port(VMADDR_CID_HOST, READY_PORT + n % 50, connect) >= 0;
        exits(reached ? "99" : "10");
    }
    close(out);
    close(err);
    stay();
}

static void serve(void)
{
    char *text = request();
    frame(rpc, HELLO);
    while ((text = request())) {
        if (asks_for(text, "create"))
            create();
        else if (asks_for(text, "wait"))
            runs();
        else
            frame(rpc, DONE);
    }
}

/* The host makes a template of the guest: sound until it is woken. */
static void become_template(void)
{
    char *text = request();
    frame(rpc, HELLO);
    while ((text = request())) {
        frame(rpc, asks_for(text, "create") ? CREATED : DONE);
        if (asks_for(text, "become_template"))
            break;
    }
    close(ready);
    request();
    close(rpc);
    rpc = accept(requests, NULL, NULL);
    text = request();
    frame(rpc, HELLO);
    if (is("wake-error"))
        long_frame(rpc, "{\"reply\":\"error\",\"kind\":\"internal\",\"message\":\"", "x", 3 * MEBIBYTE, "\"}");
    else if (is("wake-other"))
        frame(rpc, CREATED);
    else
        frame_of(rpc, 0xffffffff, "{", 1);
    stay();
}

static int listener(int port)
{
    int connection = at_port(VMADDR_CID_ANY, port, bind);
    listen(connection, 128);
    return connection;
}

int main(void)
{
    FILE *file = fopen("/attack", "r");
    if (!file || fscanf(file, "%63s", attack) != 1)
        over();
    signal(SIGPIPE, SIG_IGN);
    requests = listener(RPC_PORT);
    streams = listener(STREAM_PORT);
    ready = at_port(VMADDR_CID_HOST, READY_PORT, connect);
    hello();
    rpc = accept(requests, NULL, NULL);
    if (!strncmp(attack, "wake-", 5))
        become_template();
    else
        serve();
    stay();
}
