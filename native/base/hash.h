/* SPDX-License-Identifier: Apache-2.0 */
/* What bytes are verified by. */
#ifndef ZC_BASE_HASH_H
#define ZC_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

/* XXH3, 64 bits. */
uint64_t zc_hash(const void *bytes, size_t size);
/* The same, but another one for every seed. */
uint64_t zc_hash_seeded(const void *bytes, size_t size, uint64_t seed);

/* What a zpage is verified by. */
static inline uint32_t zc_checksum(const void *bytes, size_t size)
{
    return (uint32_t)zc_hash(bytes, size);
}

#endif
