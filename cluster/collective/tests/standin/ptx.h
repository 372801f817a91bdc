/* Runs the few instructions of PTX that our kernel is written in. */
#ifndef PTX_H
#define PTX_H
#include <stdint.h>

typedef struct Kernel Kernel;

/* The kernel of that name, or null with the reason in `error` (256 bytes). */
Kernel *ptx_parse(const char *text, const char *name, char *error);
int ptx_n_params(const Kernel *kernel);
int ptx_param_bytes(const Kernel *kernel, int param);
/* Runs one thread; 0, or 700 for an address that is no memory of a device. */
int ptx_run(const Kernel *kernel, const uint64_t *params, uint32_t block, uint32_t n_blocks, uint32_t thread, uint32_t n_threads);
void ptx_free(Kernel *kernel);

#endif
