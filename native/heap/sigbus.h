/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process's handler of SIGBUS. How a signal is handled is the process's, so this is the one place of
 * the library that has globals: which heaps share the handler, and who had the signal before.
 */
#ifndef ZC_HEAP_SIGBUS_H
#define ZC_HEAP_SIGBUS_H

#include <zcache/heap.h>

#define ZC_HEAPS_MAX 64u /* that share it */

/* Faults of the heap's memory are answered in the thread that makes them. 0, -EBUSY: ZC_HEAPS_MAX do already, or what
 * sigaction() says. */
int zc_sigbus_add(zc_heap *heap);
/* No handler looks at the heap any more. After the last one, SIGBUS is as it was before. */
void zc_sigbus_remove(zc_heap *heap);

#endif
