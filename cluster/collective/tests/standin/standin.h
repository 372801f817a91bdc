/* What the stand-in for NCCL asks of the stand-in for CUDA's driver, beside CUDA's own functions. */
#ifndef STANDIN_H
#define STANDIN_H
#include <stddef.h>
#include <stdint.h>

/* Runs `work(argument)` on a stream after all that was put there before; what it returns is a CUresult. */
int standin_enqueue(void *stream, int (*work)(void *), void *argument);
/* Whether all of it is memory of a device. */
int standin_is_memory(const void *pointer, size_t n_bytes);
/* The physical number of the device whose context is current on this thread; -1 for none. */
int standin_current_device(void);

#endif
