/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is large and stays for a while. From some pages on it is memory of its own, which is the OS's again
 * as soon as it is put back; from the C library's heap it might leave a hole that stays.
 */
#ifndef ZC_BASE_LARGE_H
#define ZC_BASE_LARGE_H

#include <stddef.h>

/* Zeroed. NULL: none left. */
void *zc_large_get(size_t size);
/* `size` as it was asked for. NULL is fine. */
void zc_large_put(void *memory, size_t size);
/* What it costs, in bytes. */
size_t zc_large_bytes(size_t size);

#endif
