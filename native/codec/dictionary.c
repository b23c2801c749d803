/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#define ZSTD_STATIC_LINKING_ONLY /* by reference, no copy */
#include <zstd.h>

#include "base/base.h"
#include "base/hash.h"
#include "codec/kind.h"

struct zc_dictionary {
    atomic_uint references;
    uint32_t id;
    size_t size;
    uint64_t hash;
    ZSTD_DDict *digested; /* speaks of bytes[] */
    char bytes[];
};

/* Bytes that begin with zstd's magic must be a dictionary to the compressor as well. */
static bool compressor_takes(const void *bytes, size_t size)
{
    ZSTD_CDict *digested = ZSTD_createCDict_advanced(
        bytes, size, ZSTD_dlm_byRef, ZSTD_dct_auto,
        ZSTD_getCParams(1, ZSTD_CONTENTSIZE_UNKNOWN, size), ZSTD_defaultCMem);

    ZSTD_freeCDict(digested);
    return digested;
}

int zc_dictionary_create(uint32_t id, const void *bytes, size_t size, struct zc_dictionary **out)
{
    if (size == 0 || size > ZC_DICTIONARY_MAX || !compressor_takes(bytes, size))
        return -EINVAL;

    struct zc_dictionary *dictionary = malloc(sizeof(*dictionary) + size);
    if (!dictionary)
        return -ENOMEM;
    memcpy(dictionary->bytes, bytes, size);
    dictionary->digested = ZSTD_createDDict_byReference(dictionary->bytes, size);
    if (!dictionary->digested) {
        free(dictionary);
        return -EINVAL;
    }
    atomic_init(&dictionary->references, 1);
    dictionary->id = id;
    dictionary->size = size;
    dictionary->hash = zc_hash(bytes, size);
    *out = dictionary;
    return 0;
}

struct zc_dictionary *zc_dictionary_ref(struct zc_dictionary *dictionary)
{
    atomic_fetch_add_explicit(&dictionary->references, 1, memory_order_relaxed);
    return dictionary;
}

void zc_dictionary_unref(struct zc_dictionary *dictionary)
{
    if (!dictionary ||
        atomic_fetch_sub_explicit(&dictionary->references, 1, memory_order_acq_rel) != 1)
        return;
    ZSTD_freeDDict(dictionary->digested);
    free(dictionary);
}

bool zc_dictionary_is_shared(const struct zc_dictionary *dictionary)
{
    return atomic_load_explicit(&dictionary->references, memory_order_acquire) > 1;
}

uint32_t zc_dictionary_id(const struct zc_dictionary *dictionary)
{
    return dictionary->id;
}

size_t zc_dictionary_size(const struct zc_dictionary *dictionary)
{
    return dictionary->size;
}

uint64_t zc_dictionary_hash(const struct zc_dictionary *dictionary)
{
    return dictionary->hash;
}

size_t zc_dictionary_memory(const struct zc_dictionary *dictionary)
{
    return sizeof(*dictionary) + dictionary->size + ZSTD_sizeof_DDict(dictionary->digested);
}

const void *zc_dictionary_bytes(const struct zc_dictionary *dictionary)
{
    return dictionary->bytes;
}

const void *zc_dictionary_digested(const struct zc_dictionary *dictionary)
{
    return dictionary->digested;
}
