/* SPDX-License-Identifier: Apache-2.0 */
#include "store/codecs.h"

#include <errno.h>
#include <string.h>

#include "base/base.h"
#include "base/large.h"
#include "store/pool.h"
#include "store/store.h"

static void charge(zc_pool *pool, ptrdiff_t bytes)
{
    atomic_fetch_add_explicit(&pool->metadata_bytes, (size_t)bytes, memory_order_relaxed);
    zc_frames_charge(pool->store->frames, bytes);
}

/* The memory of what compresses or decompresses. */
static void *state_new(zc_pool *pool, size_t size)
{
    void *state = zc_large_get(size);

    if (state)
        charge(pool, (ptrdiff_t)zc_large_bytes(size));
    return state;
}

static void state_free(zc_pool *pool, void *state, size_t size)
{
    charge(pool, -(ptrdiff_t)zc_large_bytes(size));
    zc_large_put(state, size);
}

static struct zc_dictionary *find_dictionary(void *store, uint32_t id)
{
    return zc_dictionaries_find(store, id);
}

int zc_codecs_check(zc_store *store, const char *spec, struct zc_text *why)
{
    struct zc_codec *codec;
    int error = zc_codec_create(spec, store->page_size, 1, find_dictionary, store, &codec, why);

    if (!error)
        zc_codec_destroy(codec);
    return error;
}

static int codec_new(zc_pool *pool, const char *spec, unsigned pages, struct zc_codec **codec,
                     struct zc_text *why)
{
    int error = zc_codec_create(spec, pool->store->page_size, pages, find_dictionary, pool->store,
                                codec, why);

    if (!error)
        charge(pool, (ptrdiff_t)(*codec)->memory);
    return error;
}

static void codec_free(zc_pool *pool, struct zc_codec *codec)
{
    charge(pool, -(ptrdiff_t)codec->memory);
    zc_codec_destroy(codec);
}

/* Everything of a codec whose last page has gone. */
static void number_free(zc_pool *pool, unsigned number)
{
    struct zc_compressor *compressor = pool->codecs.by_number[number].compressors, *next;

    for (; compressor; compressor = next) {
        next = compressor->next;
        zc_compressor_free(pool, compressor);
    }
    codec_free(pool, pool->codecs.by_number[number].codec);
    memset(&pool->codecs.by_number[number], 0, sizeof(pool->codecs.by_number[number]));
}

int zc_codecs_init(zc_pool *pool, const char *spec, struct zc_text *why)
{
    int error = codec_new(pool, spec, 1, &pool->codecs.by_number[0].codec, why);

    if (error)
        return error;
    pool->codecs.by_number[0].serial = pool->codecs.serials = 1;
    pthread_mutex_init(&pool->codecs.lock, NULL);
    return 0;
}

void zc_codecs_fini(zc_pool *pool)
{
    struct zc_decompressor *decompressor = pool->codecs.decompressors, *next;

    for (; decompressor; decompressor = next) {
        next = decompressor->next;
        state_free(pool, decompressor, decompressor->size);
    }
    for (struct zc_room *room = pool->codecs.rooms, *after; room; room = after) {
        after = room->next;
        state_free(pool, room, sizeof(*room) + room->size);
    }
    for (unsigned i = 0; i < ZC_POOL_CODECS; i++) {
        if (pool->codecs.by_number[i].codec)
            number_free(pool, i);
    }
    pthread_mutex_destroy(&pool->codecs.lock);
}

/* A codec without a compressor lent has all its zpages in the index, where they are counted. */
static bool is_used(const zc_pool *pool, unsigned number)
{
    if (number == pool->codecs.current || pool->codecs.by_number[number].users)
        return true;
    for (size_t i = 0; i < ZC_SHARDS; i++) {
        if (atomic_load(&pool->shards[i].codec_zpages[number]))
            return true;
    }
    return false;
}

static void prune_locked(zc_pool *pool)
{
    for (unsigned i = 0; i < ZC_POOL_CODECS; i++) {
        if (pool->codecs.by_number[i].codec && !is_used(pool, i))
            number_free(pool, i);
    }
}

void zc_codecs_prune(zc_pool *pool)
{
    pthread_mutex_lock(&pool->codecs.lock);
    prune_locked(pool);
    pthread_mutex_unlock(&pool->codecs.lock);
}

/* The number of the same codec, or a free one. ZC_POOL_CODECS: all are in use. */
static unsigned number_for(zc_pool *pool, const struct zc_codec *codec)
{
    unsigned number = ZC_POOL_CODECS;

    prune_locked(pool);
    for (unsigned i = 0; i < ZC_POOL_CODECS; i++) {
        struct zc_codec *other = pool->codecs.by_number[i].codec;
        if (other && zc_codec_is_same(other, codec))
            return i;
        if (!other)
            number = i;
    }
    return number;
}

/* A number for the codec, which is taken over if its like is not there yet: then *codec is NULL. */
static int add_locked(zc_pool *pool, struct zc_codec **codec, unsigned *number)
{
    *number = number_for(pool, *codec);
    if (*number == ZC_POOL_CODECS)
        return -E2BIG;
    if (!pool->codecs.by_number[*number].codec) {
        pool->codecs.by_number[*number].codec = *codec;
        pool->codecs.by_number[*number].serial = ++pool->codecs.serials;
        *codec = NULL;
    }
    return 0;
}

static int add(zc_pool *pool, const char *spec, unsigned pages, bool is_current, unsigned *number,
               struct zc_text *why)
{
    struct zc_codec *codec;
    int error = codec_new(pool, spec, pages, &codec, why);
    if (error)
        return error;

    pthread_mutex_lock(&pool->codecs.lock);
    error = add_locked(pool, &codec, number);
    if (error && why)
        zc_text_add(why, "codec '%s': pages of %u other codecs are still held; flush some first",
                    spec, ZC_POOL_CODECS);
    else if (!error && is_current)
        pool->codecs.current = *number;
    else if (!error)
        pool->codecs.by_number[*number].users++;
    pthread_mutex_unlock(&pool->codecs.lock);

    if (codec)
        codec_free(pool, codec);
    return error;
}

int zc_codecs_set(zc_pool *pool, const char *spec, struct zc_text *why)
{
    unsigned number;

    return add(pool, spec, 1, true, &number, why);
}

int zc_codecs_hold(zc_pool *pool, const char *spec, unsigned pages, unsigned *number,
                   struct zc_text *why)
{
    return add(pool, spec, pages, false, number, why);
}

void zc_codecs_drop(zc_pool *pool, unsigned number)
{
    pthread_mutex_lock(&pool->codecs.lock);
    pool->codecs.by_number[number].users--;
    pthread_mutex_unlock(&pool->codecs.lock);
}

void zc_codecs_show(zc_pool *pool, struct zc_text *out)
{
    pthread_mutex_lock(&pool->codecs.lock);
    zc_codec_spec(zc_codecs_at(&pool->codecs, pool->codecs.current), out);
    pthread_mutex_unlock(&pool->codecs.lock);
}

struct zc_compressor *zc_compressor_new(zc_pool *pool, unsigned number)
{
    const struct zc_codec *codec = zc_codecs_at(&pool->codecs, number);
    size_t size = sizeof(struct zc_compressor) + codec->compressor_size + 2 * codec->bound;
    struct zc_compressor *compressor = state_new(pool, size);
    if (!compressor)
        return NULL;

    compressor->codec = codec;
    compressor->number = number;
    compressor->size = size;
    compressor->zpage[0] = compressor->state + codec->compressor_size;
    compressor->zpage[1] = compressor->zpage[0] + codec->bound;
    zc_compressor_init(codec, compressor->state);
    return compressor;
}

void zc_compressor_free(zc_pool *pool, struct zc_compressor *compressor)
{
    state_free(pool, compressor, compressor->size);
}

struct zc_compressor *zc_compressor_take(zc_pool *pool)
{
    pthread_mutex_lock(&pool->codecs.lock);
    unsigned number = pool->codecs.current;
    struct zc_compressor *compressor = pool->codecs.by_number[number].compressors;
    if (compressor)
        pool->codecs.by_number[number].compressors = compressor->next;
    pool->codecs.by_number[number].users++;
    pthread_mutex_unlock(&pool->codecs.lock);
    if (compressor || (compressor = zc_compressor_new(pool, number)))
        return compressor;

    pthread_mutex_lock(&pool->codecs.lock);
    pool->codecs.by_number[number].users--;
    pthread_mutex_unlock(&pool->codecs.lock);
    return NULL;
}

void zc_compressor_give(zc_pool *pool, struct zc_compressor *compressor)
{
    unsigned number = compressor->number;

    pthread_mutex_lock(&pool->codecs.lock);
    compressor->next = pool->codecs.by_number[number].compressors;
    pool->codecs.by_number[number].compressors = compressor;
    pool->codecs.by_number[number].users--;
    pthread_mutex_unlock(&pool->codecs.lock);
}

struct zc_decompressor *zc_decompressor_take(zc_pool *pool, const struct zc_codec *codec,
                                             bool may_alloc)
{
    pthread_mutex_lock(&pool->codecs.lock);
    struct zc_decompressor **at = &pool->codecs.decompressors, *found;
    while (*at && (*at)->kind != codec->kind)
        at = &(*at)->next;
    found = *at;
    if (found)
        *at = found->next;
    pthread_mutex_unlock(&pool->codecs.lock);
    if (found || !may_alloc)
        return found;

    size_t size = sizeof(*found) + codec->decompressor_size;
    found = state_new(pool, size);
    if (!found)
        return NULL;
    found->kind = codec->kind;
    found->size = size;
    zc_decompressor_init(codec, found->state);
    return found;
}

void zc_decompressor_give(zc_pool *pool, struct zc_decompressor *decompressor)
{
    pthread_mutex_lock(&pool->codecs.lock);
    decompressor->next = pool->codecs.decompressors;
    pool->codecs.decompressors = decompressor;
    pthread_mutex_unlock(&pool->codecs.lock);
}

struct zc_room *zc_room_take(zc_pool *pool, size_t size, bool may_alloc)
{
    pthread_mutex_lock(&pool->codecs.lock);
    struct zc_room **at = &pool->codecs.rooms, *found;
    while (*at && (*at)->size < size)
        at = &(*at)->next;
    found = *at;
    if (found)
        *at = found->next;
    pthread_mutex_unlock(&pool->codecs.lock);
    if (found || !may_alloc)
        return found;

    found = state_new(pool, sizeof(*found) + size);
    if (found)
        found->size = size;
    return found;
}

void zc_room_give(zc_pool *pool, struct zc_room *room)
{
    pthread_mutex_lock(&pool->codecs.lock);
    room->next = pool->codecs.rooms;
    pool->codecs.rooms = room;
    pthread_mutex_unlock(&pool->codecs.lock);
}
