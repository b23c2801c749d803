/* SPDX-License-Identifier: Apache-2.0 */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "codec/codec.h"

uint64_t zc_hash(const void *bytes, size_t size)
{
    return XXH3_64bits(bytes, size);
}
