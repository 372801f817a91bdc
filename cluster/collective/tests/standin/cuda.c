/* A stand-in for CUDA's driver, for tests on machines without a GPU: devices whose memory is the host's, streams that are
 * threads, kernels that are interpreted (ptx.c). It keeps the rules that a caller can break: a context must be current,
 * memory of a device must have been allocated, work on a stream comes later than the call, a fault stays.
 *
 * STANDIN_DRIVER_VERSION, STANDIN_N_DEVICES and STANDIN_WITHOUT_MALLOC_ASYNC make it one that is not enough. Of the
 * environment it reads CUDA_VISIBLE_DEVICES, as the driver does. */
#include "ptx.h"
#include "standin.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef STANDIN_DRIVER_VERSION
#define STANDIN_DRIVER_VERSION 13000
#endif
#ifndef STANDIN_N_DEVICES
#define STANDIN_N_DEVICES 8
#endif

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
       INVALID_PTX = 218, INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600, ILLEGAL_ADDRESS = 700 };

typedef int CUresult;
typedef int CUdevice;
typedef uint64_t CUdeviceptr;
typedef struct Context { int device, fault; } *CUcontext;
typedef struct Work { struct Work *next; int (*run)(void *); void *argument; } Work;
typedef struct Stream { CUcontext context; pthread_t thread; Work *first, *last; int n_pending, closing; } *CUstream;
typedef struct Event { uint64_t recorded, reached; int n_users, destroyed; } *CUevent;
typedef struct Allocation { struct Allocation *next; char *start; size_t n_bytes; } Allocation;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static pthread_rwlock_t memory_lock = PTHREAD_RWLOCK_INITIALIZER;
static Allocation *memory;
static int initialized, n_devices, physical[STANDIN_N_DEVICES + 1];
static struct Context contexts[STANDIN_N_DEVICES + 1];
static __thread CUcontext current;

#define INITIALIZED if (!initialized) return NOT_INITIALIZED
#define IN_CONTEXT do { INITIALIZED; if (!current) return INVALID_CONTEXT; if (current->fault) return current->fault; } while (0)

CUresult cuInit(unsigned flags) {
    pthread_mutex_lock(&lock);
    if (flags == 0 && !initialized) {
        const char *visible = getenv("CUDA_VISIBLE_DEVICES");
        if (visible == NULL)
            for (; n_devices < STANDIN_N_DEVICES; n_devices++) physical[n_devices] = n_devices;
        else
            for (char *end; n_devices < STANDIN_N_DEVICES; visible = end + 1) {
                long device = strtol(visible, &end, 10);
                if (end == visible || device < 0 || device >= STANDIN_N_DEVICES) break;
                physical[n_devices++] = (int)device;
                if (*end != ',') break;
            }
        initialized = n_devices > 0;
    }
    pthread_mutex_unlock(&lock);
    return flags ? INVALID_VALUE : initialized ? SUCCESS : NO_DEVICE;
}

CUresult cuDriverGetVersion(int *version) {
    *version = STANDIN_DRIVER_VERSION;
    return SUCCESS;
}

CUresult cuDeviceGetCount(int *count) {
    INITIALIZED;
    *count = n_devices;
    return SUCCESS;
}

CUresult cuDeviceGet(CUdevice *device, int ordinal) {
    INITIALIZED;
    if (ordinal < 0 || ordinal >= n_devices) return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}

CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device) {
    INITIALIZED;
    if (device < 0 || device >= n_devices) return INVALID_DEVICE;
    *value = attribute == 115; /* CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED */
    return SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    INITIALIZED;
    if (device < 0 || device >= n_devices) return INVALID_DEVICE;
    contexts[device].device = physical[device];
    *context = &contexts[device];
    return SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) { return device >= 0 && device < n_devices ? SUCCESS : INVALID_DEVICE; }

CUresult cuCtxGetCurrent(CUcontext *context) {
    INITIALIZED;
    *context = current;
    return SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext context) {
    INITIALIZED;
    current = context;
    return SUCCESS;
}

int standin_current_device(void) { return current ? current->device : -1; }

/* Streams */

static void *stream_thread(void *argument) {
    CUstream stream = argument;
    current = stream->context;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!stream->first && !stream->closing) pthread_cond_wait(&changed, &lock);
        Work *work = stream->first;
        if (!work) break;
        stream->first = work->next;
        if (!stream->first) stream->last = NULL;
        pthread_mutex_unlock(&lock);
        int result = work->run(work->argument);
        free(work);
        pthread_mutex_lock(&lock);
        if (result != SUCCESS) stream->context->fault = result;
        stream->n_pending--;
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&lock);
    free(stream);
    return NULL;
}

CUresult cuStreamCreate(CUstream *result, unsigned flags) {
    IN_CONTEXT;
    if (flags > 1) return INVALID_VALUE;
    CUstream stream = calloc(1, sizeof *stream);
    stream->context = current;
    if (pthread_create(&stream->thread, NULL, stream_thread, stream) != 0) return OUT_OF_MEMORY;
    pthread_detach(stream->thread);
    *result = stream;
    return SUCCESS;
}

CUresult cuStreamDestroy_v2(CUstream stream) { /* what is on it is still done */
    INITIALIZED;
    pthread_mutex_lock(&lock);
    stream->closing = 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

int standin_enqueue(void *to, int (*run)(void *), void *argument) {
    CUstream stream = to;
    if (!stream) return INVALID_HANDLE;
    Work *work = malloc(sizeof *work);
    *work = (Work){NULL, run, argument};
    pthread_mutex_lock(&lock);
    if (stream->last) stream->last->next = work; else stream->first = work;
    stream->last = work;
    stream->n_pending++;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

CUresult cuStreamSynchronize(CUstream stream) {
    IN_CONTEXT;
    pthread_mutex_lock(&lock);
    while (stream->n_pending > 0) pthread_cond_wait(&changed, &lock);
    int fault = stream->context->fault;
    pthread_mutex_unlock(&lock);
    return fault;
}

CUresult cuCtxSynchronize(void) {
    IN_CONTEXT;
    return SUCCESS; /* only asked for before the first stream */
}

/* Events */

typedef struct { CUevent event; uint64_t generation; } Mark;

CUresult cuEventCreate(CUevent *event, unsigned flags) {
    IN_CONTEXT;
    (void)flags;
    *event = calloc(1, sizeof **event);
    return SUCCESS;
}

static void leave(CUevent event) { /* with the lock */
    event->n_users--;
    if (event->destroyed && event->n_users == 0) free(event);
}

static int reach(void *argument) {
    Mark *mark = argument;
    pthread_mutex_lock(&lock);
    mark->event->reached = mark->generation;
    leave(mark->event);
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    free(mark);
    return SUCCESS;
}

static int await(void *argument) {
    Mark *mark = argument;
    pthread_mutex_lock(&lock);
    while (mark->event->reached < mark->generation) pthread_cond_wait(&changed, &lock);
    leave(mark->event);
    pthread_mutex_unlock(&lock);
    free(mark);
    return SUCCESS;
}

static CUresult marked(CUevent event, CUstream stream, int (*work)(void *), int records) {
    Mark *mark = malloc(sizeof *mark);
    pthread_mutex_lock(&lock);
    event->recorded += records;
    event->n_users++;
    *mark = (Mark){event, event->recorded};
    pthread_mutex_unlock(&lock);
    return standin_enqueue(stream, work, mark);
}

CUresult cuEventRecord(CUevent event, CUstream stream) {
    IN_CONTEXT;
    return marked(event, stream, reach, 1);
}

CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags) {
    IN_CONTEXT;
    (void)flags;
    return marked(event, stream, await, 0);
}

CUresult cuEventQuery(CUevent event) {
    pthread_mutex_lock(&lock);
    int done = event->reached >= event->recorded;
    pthread_mutex_unlock(&lock);
    return current && current->fault ? current->fault : done ? SUCCESS : NOT_READY;
}

CUresult cuEventDestroy_v2(CUevent event) {
    pthread_mutex_lock(&lock);
    event->destroyed = 1;
    event->n_users++;
    leave(event);
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

/* Memory */

int standin_is_memory(const void *pointer, size_t n_bytes) {
    const char *start = pointer;
    int found = 0;
    pthread_rwlock_rdlock(&memory_lock);
    for (Allocation *a = memory; a && !found; a = a->next) found = start >= a->start && start + n_bytes <= a->start + a->n_bytes;
    pthread_rwlock_unlock(&memory_lock);
    return found || n_bytes == 0;
}

/* Memory of the host that tests use as if it were a device's. */
void standin_adopt(void *start, size_t n_bytes) {
    Allocation *allocation = malloc(sizeof *allocation);
    pthread_rwlock_wrlock(&memory_lock);
    *allocation = (Allocation){memory, start, n_bytes};
    memory = allocation;
    pthread_rwlock_unlock(&memory_lock);
}

static int forget(void *pointer) {
    int found = 0;
    pthread_rwlock_wrlock(&memory_lock);
    for (Allocation **a = &memory; *a; a = &(*a)->next)
        if ((*a)->start == pointer) {
            Allocation *gone = *a;
            *a = gone->next;
            free(gone);
            found = 1;
            break;
        }
    pthread_rwlock_unlock(&memory_lock);
    return found;
}

void standin_disown(void *start) { forget(start); }

#ifndef STANDIN_WITHOUT_MALLOC_ASYNC
CUresult cuMemAllocAsync(CUdeviceptr *result, size_t n_bytes, CUstream stream) {
    IN_CONTEXT;
    if (n_bytes == 0 || !stream) return INVALID_VALUE;
    char *start = malloc(n_bytes);
    if (!start) return OUT_OF_MEMORY;
    memset(start, 0xff, n_bytes); /* nobody relies on what is there */
    standin_adopt(start, n_bytes);
    *result = (CUdeviceptr)(uintptr_t)start;
    return SUCCESS;
}
#endif

static int release(void *pointer) {
    if (!forget(pointer)) return INVALID_VALUE;
    free(pointer);
    return SUCCESS;
}

CUresult cuMemFreeAsync(CUdeviceptr pointer, CUstream stream) {
    IN_CONTEXT;
    return standin_enqueue(stream, release, (void *)(uintptr_t)pointer);
}

typedef struct { void *to; const void *from; size_t n_bytes; void *staged; int value; } Copy;

static int copy(void *argument) {
    Copy *c = argument;
    int result = SUCCESS;
    if (c->staged) result = standin_is_memory(c->to, c->n_bytes) ? SUCCESS : ILLEGAL_ADDRESS;
    if (result == SUCCESS) {
        if (c->from) memcpy(c->to, c->from, c->n_bytes); else memset(c->to, c->value, c->n_bytes);
    }
    free(c->staged);
    free(c);
    return result;
}

static CUresult enqueue_copy(CUstream stream, Copy c) {
    Copy *kept = malloc(sizeof *kept);
    *kept = c;
    return standin_enqueue(stream, copy, kept);
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t n_bytes, CUstream stream) {
    IN_CONTEXT;
    void *target = (void *)(uintptr_t)to, *staged = malloc(n_bytes ? n_bytes : 1);
    if (!standin_is_memory(target, n_bytes)) { free(staged); return INVALID_VALUE; }
    memcpy(staged, from, n_bytes); /* pageable memory is read before the call returns */
    return enqueue_copy(stream, (Copy){target, staged, n_bytes, staged, 0});
}

CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t n_bytes, CUstream stream) {
    IN_CONTEXT;
    if (!standin_is_memory((void *)(uintptr_t)from, n_bytes)) return INVALID_VALUE;
    enqueue_copy(stream, (Copy){to, (void *)(uintptr_t)from, n_bytes, NULL, 0});
    return cuStreamSynchronize(stream); /* pageable memory is written before the call returns */
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t n_bytes, CUstream stream) {
    IN_CONTEXT;
    void *target = (void *)(uintptr_t)to, *source = (void *)(uintptr_t)from;
    if (!standin_is_memory(target, n_bytes) || !standin_is_memory(source, n_bytes)) return INVALID_VALUE;
    return enqueue_copy(stream, (Copy){target, source, n_bytes, NULL, 0});
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t n_bytes, CUstream stream) {
    IN_CONTEXT;
    void *target = (void *)(uintptr_t)to;
    if (!standin_is_memory(target, n_bytes)) return INVALID_VALUE;
    return enqueue_copy(stream, (Copy){target, NULL, n_bytes, NULL, value});
}

/* Kernels */

CUresult cuModuleLoadData(char **module, const void *image) {
    IN_CONTEXT;
    if (strstr(image, ".version ") == NULL) return INVALID_PTX;
    *module = strdup(image);
    return SUCCESS;
}

CUresult cuModuleUnload(char *module) {
    IN_CONTEXT;
    free(module);
    return SUCCESS;
}

CUresult cuModuleGetFunction(Kernel **function, char *module, const char *name) {
    char error[256], entry[64];
    IN_CONTEXT;
    snprintf(entry, sizeof entry, ".entry %s(", name);
    if (strstr(module, entry) == NULL) return NOT_FOUND;
    *function = ptx_parse(module, name, error);
    if (*function == NULL) fprintf(stderr, "stand-in for CUDA: %s\n", error);
    return *function ? SUCCESS : INVALID_PTX;
}

typedef struct { Kernel *kernel; unsigned n_blocks, n_threads; uint64_t params[]; } Launch;

static int launch(void *argument) {
    Launch *l = argument;
    int result = SUCCESS;
    for (unsigned block = 0; block < l->n_blocks && result == SUCCESS; block++)
        for (unsigned thread = 0; thread < l->n_threads && result == SUCCESS; thread++)
            result = ptx_run(l->kernel, l->params, block, l->n_blocks, thread, l->n_threads);
    free(l);
    return result;
}

CUresult cuLaunchKernel(Kernel *kernel, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                        unsigned block_z, unsigned shared_bytes, CUstream stream, void **params, void **extra) {
    IN_CONTEXT;
    if (!grid_x || grid_y != 1 || grid_z != 1 || !block_x || block_x > 1024 || block_y != 1 || block_z != 1 || shared_bytes || extra)
        return INVALID_VALUE;
    Launch *l = calloc(1, sizeof *l + 8 * (size_t)ptx_n_params(kernel));
    l->kernel = kernel, l->n_blocks = grid_x, l->n_threads = block_x;
    for (int i = 0; i < ptx_n_params(kernel); i++) memcpy(&l->params[i], params[i], (size_t)ptx_param_bytes(kernel, i));
    return standin_enqueue(stream, launch, l);
}

/* Words */

CUresult cuGetErrorName(CUresult error, const char **name) {
    switch (error) {
    case INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; break;
    case OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case NO_DEVICE: *name = "CUDA_ERROR_NO_DEVICE"; break;
    case INVALID_PTX: *name = "CUDA_ERROR_INVALID_PTX"; break;
    case ILLEGAL_ADDRESS: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
    default: *name = "CUDA_ERROR_UNKNOWN";
    }
    return SUCCESS;
}

CUresult cuGetErrorString(CUresult error, const char **text) {
    *text = error == NO_DEVICE ? "no CUDA-capable device is detected" : "an error of the stand-in for CUDA's driver";
    return SUCCESS;
}
