/* SPDX-License-Identifier: Apache-2.0 */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "base/hash.h"

uint64_t zc_hash(const void *bytes, size_t size)
{
    return XXH3_64bits(bytes, size);
}

uint64_t zc_hash_seeded(const void *bytes, size_t size, uint64_t seed)
{
    return XXH3_64bits_withSeed(bytes, size, seed);
}
