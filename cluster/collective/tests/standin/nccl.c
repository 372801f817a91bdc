/* A stand-in for NCCL, for tests on machines without a GPU: it carries the bytes over Unix sockets, between threads as
 * between processes of one machine. It keeps the rules that a caller of a communicator that does not block can break:
 * calls return at once and are under way until ncclCommGetAsyncError says otherwise, a communicator that is busy takes no
 * call, memory is a device's, two ranks have two GPUs. A peer that is lost shows as an error of the communicator, and what is
 * on the stream waits until the communicator is aborted, as a kernel would. Reductions add in another order than that of
 * ranks, as NCCL's may.
 *
 * STANDIN_NCCL_VERSION and STANDIN_WITHOUT_SEND make it one that is not enough. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifndef STANDIN_NCCL_VERSION
#define STANDIN_NCCL_VERSION 22703
#endif

enum { SUCCESS = 0, SYSTEM_ERROR = 2, INTERNAL_ERROR = 3, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, REMOTE_ERROR = 6, IN_PROGRESS = 7 };
enum { UINT8 = 1, FLOAT32 = 7, SUM = 0 };
enum { ID_BYTES = 128, MOST_RANKS = 64, MOST_CALLS = 4 * MOST_RANKS };

typedef struct { char bytes[ID_BYTES]; } UniqueId;
typedef struct { size_t size; unsigned magic, version; int blocking; } Config;

typedef struct Comm {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int rank, size, device, state, aborted, n_running;
    int sockets[MOST_RANKS];
    UniqueId id;
} Comm;

/* What is asked for in a group. */
typedef struct {
    enum { SEND, RECEIVE, ALL_REDUCE, REDUCE_SCATTER, REDUCE } what;
    const char *from;
    char *to;
    size_t n_bytes;
    int peer;
} Call;

typedef struct { Comm *comm; void *stream; int n; Call calls[MOST_CALLS]; } Group;

/* What the driver's stand-in has for this one (standin.h), which can be loaded without it, as NCCL without a driver. */
static int (*standin_enqueue)(void *, int (*)(void *), void *);
static int (*standin_is_memory)(const void *, size_t);
static int (*standin_current_device)(void);

static int find_driver(void) {
    void *driver = dlopen("libcuda.so", RTLD_NOW);
    if (driver == NULL) return 0;
    *(void **)&standin_enqueue = dlsym(driver, "standin_enqueue");
    *(void **)&standin_is_memory = dlsym(driver, "standin_is_memory");
    *(void **)&standin_current_device = dlsym(driver, "standin_current_device");
    return standin_enqueue && standin_is_memory && standin_current_device;
}

static __thread int depth;
static __thread Group *open_group;
static char last_error[256];

static int failed(int code, const char *text) {
    snprintf(last_error, sizeof last_error, "%s", text);
    return code;
}

int ncclGetVersion(int *version) {
    *version = STANDIN_NCCL_VERSION;
    return SUCCESS;
}

int ncclGetUniqueId(UniqueId *id) {
    memset(id, 0, sizeof *id);
    return getrandom(id->bytes, 16, 0) == 16 ? SUCCESS : failed(SYSTEM_ERROR, "no random bytes");
}

const char *ncclGetErrorString(int code) {
    static const char *words[] = {"no error", "unhandled cuda error", "unhandled system error", "internal error", "invalid argument",
                                  "invalid usage", "remote process exited or there was a network error", "NCCL operation in progress"};
    return code >= 0 && code <= IN_PROGRESS ? words[code] : "unknown result code";
}

const char *ncclGetLastError(Comm *comm) {
    (void)comm;
    return last_error;
}

static int is_aborted(Comm *comm) {
    pthread_mutex_lock(&comm->lock);
    int aborted = comm->aborted;
    pthread_mutex_unlock(&comm->lock);
    return aborted;
}

enum { AS_IT_IS = -1 };

static void set_state(Comm *comm, int state, int running) {
    pthread_mutex_lock(&comm->lock);
    if (state != AS_IT_IS && (comm->state == SUCCESS || comm->state == IN_PROGRESS)) comm->state = state;
    comm->n_running += running;
    pthread_cond_broadcast(&comm->changed);
    pthread_mutex_unlock(&comm->lock);
}

static void nap(void) { nanosleep(&(struct timespec){0, 500000}, NULL); }

/* Bytes to one peer and from it, as far as they are through. */
typedef struct { char *bytes; size_t n_bytes, done; } Flow;

/* Moves all flows; 0, or the error of the communicator. */
static int move_all(Comm *comm, Flow *sent, Flow *received) {
    for (;;) {
        struct pollfd polled[MOST_RANKS];
        int n = 0, peers[MOST_RANKS];
        for (int peer = 0; peer < comm->size; peer++) {
            short events = (short)((sent[peer].done < sent[peer].n_bytes ? POLLOUT : 0) | (received[peer].done < received[peer].n_bytes ? POLLIN : 0));
            if (events) polled[n] = (struct pollfd){comm->sockets[peer], events, 0}, peers[n++] = peer;
        }
        if (n == 0) return SUCCESS;
        if (is_aborted(comm)) return INTERNAL_ERROR;
        if (poll(polled, (nfds_t)n, 5) < 0 && errno != EINTR) return failed(SYSTEM_ERROR, "poll");
        for (int i = 0; i < n; i++) {
            Flow *out = &sent[peers[i]], *in = &received[peers[i]];
            ssize_t moved = 0;
            if (polled[i].revents & (POLLIN | POLLHUP | POLLERR) && in->done < in->n_bytes) {
                moved = recv(polled[i].fd, in->bytes + in->done, in->n_bytes - in->done, MSG_DONTWAIT);
                if (moved == 0 || (moved < 0 && errno != EAGAIN)) return failed(REMOTE_ERROR, "connection closed by a peer");
                in->done += moved > 0 ? (size_t)moved : 0;
            }
            if (polled[i].revents & (POLLOUT | POLLHUP | POLLERR) && out->done < out->n_bytes) {
                moved = send(polled[i].fd, out->bytes + out->done, out->n_bytes - out->done, MSG_DONTWAIT | MSG_NOSIGNAL);
                if (moved < 0 && errno != EAGAIN) return failed(REMOTE_ERROR, "connection closed by a peer");
                out->done += moved > 0 ? (size_t)moved : 0;
            }
        }
    }
}

/* Connecting: every rank listens under a name made of the id, and dials those below it. */

typedef struct { int rank, size, device; } Hello;

static struct sockaddr_un name_of(const Comm *comm, int rank, socklen_t *length) {
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int at = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "lavida-standin-%d-", rank);
    for (int i = 0; i < 16; i++) at += snprintf(name.sun_path + 1 + at, sizeof name.sun_path - 1 - (size_t)at, "%02x", (unsigned char)comm->id.bytes[i]);
    *length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)at);
    return name;
}

/* All of a few bytes, unless the communicator is aborted; 0 on success. */
static int whole(Comm *comm, int socket, void *bytes, size_t n_bytes, int writes) {
    for (size_t done = 0; done < n_bytes;) {
        if (is_aborted(comm)) return 1;
        ssize_t moved = writes ? send(socket, (char *)bytes + done, n_bytes - done, MSG_DONTWAIT | MSG_NOSIGNAL)
                               : recv(socket, (char *)bytes + done, n_bytes - done, MSG_DONTWAIT);
        if (moved == 0 || (moved < 0 && errno != EAGAIN)) return 1;
        if (moved > 0) done += (size_t)moved; else nap();
    }
    return 0;
}

static int greet(Comm *comm, int socket, int dialled) {
    Hello mine = {comm->rank, comm->size, comm->device}, theirs;
    if (whole(comm, socket, &mine, sizeof mine, 1) || whole(comm, socket, &theirs, sizeof theirs, 0)) return failed(REMOTE_ERROR, "a peer left while connecting");
    if (theirs.size != comm->size || theirs.rank < 0 || theirs.rank >= comm->size || (dialled >= 0 && theirs.rank != dialled) || comm->sockets[theirs.rank] >= 0)
        return failed(INVALID_USAGE, "ranks of other worlds have the same id");
    comm->sockets[theirs.rank] = socket;
    if (theirs.device == comm->device) return failed(INVALID_USAGE, "Duplicate GPU detected : two ranks have the same CUDA device");
    return SUCCESS;
}

static int connect_all(Comm *comm) {
    socklen_t length;
    struct sockaddr_un name = name_of(comm, comm->rank, &length);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), result = SUCCESS;
    if (listener < 0 || bind(listener, (struct sockaddr *)&name, length) < 0 || listen(listener, MOST_RANKS) < 0) {
        if (listener >= 0) close(listener);
        return failed(INVALID_USAGE, "two ranks have the same number");
    }
    for (int peer = 0; peer < comm->rank && result == SUCCESS; peer++) {
        name = name_of(comm, peer, &length);
        int dialled = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        while (connect(dialled, (struct sockaddr *)&name, length) < 0 && result == SUCCESS) {
            if (is_aborted(comm)) result = INTERNAL_ERROR;
            nap();
        }
        if (result == SUCCESS) result = greet(comm, dialled, peer);
    }
    for (int n = comm->rank + 1; n < comm->size && result == SUCCESS; n++) {
        int accepted;
        while ((accepted = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) < 0 && result == SUCCESS) {
            if (is_aborted(comm)) result = INTERNAL_ERROR;
            nap();
        }
        if (result == SUCCESS) result = greet(comm, accepted, -1);
    }
    close(listener);
    return result;
}

static void *connecting(void *argument) {
    Comm *comm = argument;
    int result = connect_all(comm);
    set_state(comm, result, -1);
    return NULL;
}

/* Starts a thread that is counted among what runs for the communicator. */
static int start(Comm *comm, void *(*run)(void *), void *argument) {
    pthread_t thread;
    pthread_mutex_lock(&comm->lock);
    comm->state = IN_PROGRESS;
    comm->n_running++;
    pthread_mutex_unlock(&comm->lock);
    if (pthread_create(&thread, NULL, run, argument) != 0) {
        set_state(comm, SYSTEM_ERROR, -1);
        return failed(SYSTEM_ERROR, "no thread");
    }
    pthread_detach(thread);
    return IN_PROGRESS;
}

int ncclCommInitRankConfig(Comm **result, int size, UniqueId id, int rank, Config *config) {
    if (config->size != sizeof *config || config->magic != 0xcafebeef || config->version != 21400 || config->blocking != 0)
        return failed(INVALID_ARGUMENT, "the stand-in knows the configuration of 2.14 that does not block");
    if (size < 1 || size > MOST_RANKS || rank < 0 || rank >= size) return failed(INVALID_ARGUMENT, "rank or size");
    if (!find_driver()) return failed(SYSTEM_ERROR, "no stand-in for CUDA's driver");
    if (standin_current_device() < 0) return failed(1, "no CUDA device is current");
    Comm *comm = calloc(1, sizeof *comm);
    pthread_mutex_init(&comm->lock, NULL);
    pthread_cond_init(&comm->changed, NULL);
    comm->rank = rank, comm->size = size, comm->device = standin_current_device(), comm->id = id;
    for (int peer = 0; peer < MOST_RANKS; peer++) comm->sockets[peer] = -1;
    *result = comm;
    return start(comm, connecting, comm);
}

int ncclCommGetAsyncError(Comm *comm, int *state) {
    pthread_mutex_lock(&comm->lock);
    *state = comm->state;
    pthread_mutex_unlock(&comm->lock);
    return SUCCESS;
}

int ncclCommAbort(Comm *comm) {
    pthread_mutex_lock(&comm->lock);
    comm->aborted = 1;
    pthread_cond_broadcast(&comm->changed);
    while (comm->n_running > 0) pthread_cond_wait(&comm->changed, &comm->lock);
    pthread_mutex_unlock(&comm->lock);
    for (int peer = 0; peer < comm->size; peer++)
        if (comm->sockets[peer] >= 0) close(comm->sockets[peer]);
    free(comm);
    return SUCCESS;
}

/* What is on the stream */

static void add(float *sum, const float *values, size_t n) {
    for (size_t i = 0; i < n; i++) sum[i] += values[i];
}

/* Sends `from[p]` to each peer and receives its own from each into `all`, one after the other, with its own at its place. */
static int to_all(Comm *comm, const char **from, size_t *sent_bytes, char *all, size_t n_bytes) {
    Flow sent[MOST_RANKS] = {0}, received[MOST_RANKS] = {0};
    for (int peer = 0; peer < comm->size; peer++) {
        if (peer == comm->rank) {
            if (n_bytes) memcpy(all + (size_t)peer * n_bytes, from[peer], n_bytes);
            continue;
        }
        sent[peer] = (Flow){(char *)from[peer], sent_bytes[peer], 0};
        received[peer] = (Flow){all + (size_t)peer * n_bytes, n_bytes, 0};
    }
    return move_all(comm, sent, received);
}

static int reduce(Comm *comm, const Call *call) {
    size_t sent_bytes[MOST_RANKS], n = call->n_bytes;
    const char *from[MOST_RANKS];
    int receives = call->what != REDUCE || comm->rank == call->peer;
    for (int peer = 0; peer < comm->size; peer++) {
        from[peer] = call->from + (call->what == REDUCE_SCATTER ? (size_t)peer * n : 0);
        sent_bytes[peer] = call->what != REDUCE || peer == call->peer ? n : 0;
    }
    char *all = malloc(n * (size_t)comm->size + 1);
    int result = to_all(comm, from, sent_bytes, all, receives ? n : 0);
    if (result == SUCCESS && receives) {
        memcpy(call->to, all + (size_t)(comm->size - 1) * n, n); /* the last first: not the order of ranks */
        for (int rank = comm->size - 2; rank >= 0; rank--) add((float *)(void *)call->to, (float *)(void *)(all + (size_t)rank * n), n / 4);
    }
    free(all);
    return result;
}

static int send_and_receive(Comm *comm, const Group *group) {
    size_t lengths_sent[MOST_RANKS] = {0}, lengths_received[MOST_RANKS] = {0};
    Flow sent[MOST_RANKS] = {0}, received[MOST_RANKS] = {0}, headers_sent[MOST_RANKS] = {0}, headers_received[MOST_RANKS] = {0};
    for (int i = 0; i < group->n; i++) { /* one each a peer */
        const Call *call = &group->calls[i];
        size_t *length = call->what == SEND ? &lengths_sent[call->peer] : &lengths_received[call->peer];
        Flow *header = call->what == SEND ? &headers_sent[call->peer] : &headers_received[call->peer];
        Flow *flow = call->what == SEND ? &sent[call->peer] : &received[call->peer];
        if (flow->n_bytes) return failed(INTERNAL_ERROR, "the stand-in knows one message a peer and group");
        *length = call->n_bytes;
        *header = (Flow){(char *)length, sizeof *length, 0};
        *flow = (Flow){call->what == SEND ? (char *)call->from : call->to, call->n_bytes, 0};
    }
    int result = move_all(comm, headers_sent, headers_received);
    for (int peer = 0; peer < comm->size && result == SUCCESS; peer++)
        if (received[peer].n_bytes && lengths_received[peer] != received[peer].n_bytes)
            result = failed(INTERNAL_ERROR, "a message is not as long as its receiver expects");
    return result == SUCCESS ? move_all(comm, sent, received) : result;
}

static int on_stream(void *argument) {
    Group *group = argument;
    Comm *comm = group->comm;
    int result = SUCCESS, messages = group->n > 0 && group->calls[0].what <= RECEIVE;
    if (messages) result = send_and_receive(comm, group);
    else
        for (int i = 0; i < group->n && result == SUCCESS; i++) result = reduce(comm, &group->calls[i]);
    if (result != SUCCESS) {
        set_state(comm, result, 0);
        while (!is_aborted(comm)) nap(); /* a kernel whose peer is gone waits for the abort */
    }
    set_state(comm, AS_IT_IS, -1); /* the next group may be under way */
    free(group);
    return 0;
}

static void *launching(void *argument) {
    Group *group = argument;
    Comm *comm = group->comm;
    set_state(comm, AS_IT_IS, 1); /* for what is on the stream */
    if (standin_enqueue(group->stream, on_stream, group) != 0) set_state(comm, INVALID_USAGE, -1);
    set_state(comm, SUCCESS, -1);
    return NULL;
}

/* Groups */

int ncclGroupStart(void) {
    if (depth++ == 0) open_group = calloc(1, sizeof *open_group);
    return SUCCESS;
}

int ncclGroupEnd(void) {
    if (depth == 0) return failed(INVALID_USAGE, "a group ends that has not begun");
    if (--depth > 0) return SUCCESS;
    Group *group = open_group;
    open_group = NULL;
    if (group->n == 0) {
        free(group);
        return SUCCESS;
    }
    return start(group->comm, launching, group);
}

static int ask(Comm *comm, void *stream, Call call) {
    int state, result;
    ncclCommGetAsyncError(comm, &state);
    if (state != SUCCESS) return failed(INVALID_ARGUMENT, "the communicator is busy or broken");
    if (call.peer < 0 || call.peer >= comm->size || (call.what <= RECEIVE && call.peer == comm->rank)) return failed(INVALID_ARGUMENT, "peer");
    size_t sent = call.n_bytes * (call.what == REDUCE_SCATTER ? (size_t)comm->size : 1);
    if ((call.from && !standin_is_memory(call.from, sent)) || (call.to && !standin_is_memory(call.to, call.n_bytes)))
        return failed(INVALID_ARGUMENT, "memory that is no device's");
    ncclGroupStart();
    if (open_group->n == MOST_CALLS || (open_group->n && (open_group->comm != comm || open_group->stream != stream)))
        result = failed(INVALID_USAGE, "the stand-in knows groups of one communicator");
    else if (open_group->n && (open_group->calls[0].what <= RECEIVE) != (call.what <= RECEIVE))
        result = failed(INVALID_USAGE, "the stand-in knows groups of one kind of call");
    else {
        open_group->comm = comm, open_group->stream = stream;
        open_group->calls[open_group->n++] = call;
        result = SUCCESS;
    }
    int ended = ncclGroupEnd();
    return result != SUCCESS ? result : ended;
}

static size_t width(int type) { return type == UINT8 ? 1 : type == FLOAT32 ? 4 : 0; }

#ifndef STANDIN_WITHOUT_SEND
int ncclSend(const void *from, size_t count, int type, int peer, Comm *comm, void *stream) {
    return ask(comm, stream, (Call){SEND, from, NULL, count * width(type), peer});
}
#endif

int ncclRecv(void *to, size_t count, int type, int peer, Comm *comm, void *stream) {
    return ask(comm, stream, (Call){RECEIVE, NULL, to, count * width(type), peer});
}

static int reduced(Comm *comm, void *stream, int type, int operation, Call call) {
    if (type != FLOAT32 || operation != SUM) return failed(INVALID_ARGUMENT, "the stand-in knows sums of float32");
    return ask(comm, stream, call);
}

int ncclAllReduce(const void *from, void *to, size_t count, int type, int operation, Comm *comm, void *stream) {
    return reduced(comm, stream, type, operation, (Call){ALL_REDUCE, from, to, 4 * count, 0});
}

int ncclReduceScatter(const void *from, void *to, size_t count, int type, int operation, Comm *comm, void *stream) {
    return reduced(comm, stream, type, operation, (Call){REDUCE_SCATTER, from, to, 4 * count, 0});
}

int ncclReduce(const void *from, void *to, size_t count, int type, int operation, int root, Comm *comm, void *stream) {
    return reduced(comm, stream, type, operation, (Call){REDUCE, from, comm->rank == root ? to : NULL, 4 * count, root});
}
