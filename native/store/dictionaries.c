/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "base/base.h"
#include "store/codecs.h"
#include "store/pool.h"

struct loaded {
    struct zc_link link; /* in zc_store.dictionaries, by number */
    struct zc_dictionary *dictionary;
};

void zc_dictionaries_init(zc_store *store)
{
    pthread_mutex_init(&store->dictionaries_lock, NULL);
    zc_list_init(&store->dictionaries);
    store->next_dictionary = 1;
}

static size_t memory_of(const struct loaded *loaded)
{
    return sizeof(*loaded) + zc_dictionary_memory(loaded->dictionary);
}

/* No codec uses it. */
static void unload(zc_store *store, struct loaded *loaded)
{
    zc_list_del(&loaded->link);
    zc_frames_charge(store->frames, -(ptrdiff_t)memory_of(loaded));
    zc_dictionary_unref(loaded->dictionary);
    free(loaded);
}

void zc_dictionaries_fini(zc_store *store)
{
    while (!zc_list_empty(&store->dictionaries))
        unload(store, ZC_CONTAINER(store->dictionaries.next, struct loaded, link));
    pthread_mutex_destroy(&store->dictionaries_lock);
}

static struct loaded *find_locked(zc_store *store, uint32_t id)
{
    for (struct zc_link *at = store->dictionaries.next; at != &store->dictionaries; at = at->next) {
        struct loaded *loaded = ZC_CONTAINER(at, struct loaded, link);
        if (zc_dictionary_id(loaded->dictionary) == id)
            return loaded;
    }
    return NULL;
}

struct zc_dictionary *zc_dictionaries_find(zc_store *store, uint32_t id)
{
    pthread_mutex_lock(&store->dictionaries_lock);
    struct loaded *loaded = find_locked(store, id);
    struct zc_dictionary *found = loaded ? zc_dictionary_ref(loaded->dictionary) : NULL;
    pthread_mutex_unlock(&store->dictionaries_lock);
    return found;
}

uint32_t zc_dictionaries_by_hash(zc_store *store, uint64_t hash)
{
    uint32_t id = 0;

    pthread_mutex_lock(&store->dictionaries_lock);
    for (struct zc_link *at = store->dictionaries.next; at != &store->dictionaries; at = at->next) {
        const struct zc_dictionary *dictionary = ZC_CONTAINER(at, struct loaded, link)->dictionary;
        if (zc_dictionary_hash(dictionary) == hash)
            id = zc_dictionary_id(dictionary);
    }
    pthread_mutex_unlock(&store->dictionaries_lock);
    return id;
}

int zc_dictionaries_list(zc_store *store, int (*emit)(void *arg, uint32_t id), void *arg)
{
    int error = 0;
    uint32_t id = 0, top;

    /* emit may look one up, so the lock is not held meanwhile; numbers only grow. */
    pthread_mutex_lock(&store->dictionaries_lock);
    top = store->next_dictionary;
    pthread_mutex_unlock(&store->dictionaries_lock);
    while (!error && ++id < top) {
        struct zc_dictionary *dictionary = zc_dictionaries_find(store, id);
        if (!dictionary)
            continue;
        zc_dictionary_unref(dictionary);
        error = emit(arg, id);
    }
    return error;
}

/* One of the same bytes. */
static struct loaded *find_same(zc_store *store, const struct zc_dictionary *dictionary)
{
    for (struct zc_link *at = store->dictionaries.next; at != &store->dictionaries; at = at->next) {
        struct loaded *loaded = ZC_CONTAINER(at, struct loaded, link);
        if (zc_dictionary_hash(loaded->dictionary) == zc_dictionary_hash(dictionary) &&
            zc_dictionary_size(loaded->dictionary) == zc_dictionary_size(dictionary))
            return loaded;
    }
    return NULL;
}

int zc_dictionary_load(zc_store *store, const void *bytes, size_t size, uint32_t *id)
{
    struct loaded *made = zc_frames_have_room(store->frames) ? malloc(sizeof(*made)) : NULL;
    if (!made)
        return -ENOMEM;

    pthread_mutex_lock(&store->dictionaries_lock);
    int error = zc_dictionary_create(store->next_dictionary, bytes, size, &made->dictionary);
    if (error)
        goto unlock;
    struct loaded *same = find_same(store, made->dictionary);
    if (same) {
        *id = zc_dictionary_id(same->dictionary);
        zc_dictionary_unref(made->dictionary);
        goto unlock;
    }
    *id = store->next_dictionary++;
    zc_list_add(store->dictionaries.prev, &made->link);
    zc_frames_charge(store->frames, (ptrdiff_t)memory_of(made));
    made = NULL;
unlock:
    pthread_mutex_unlock(&store->dictionaries_lock);
    free(made);
    return error;
}

/* Codecs without pages hold no dictionary back. */
static void prune_pools(zc_store *store)
{
    pthread_mutex_lock(&store->pools_lock);
    for (struct zc_link *at = store->pools.next; at != &store->pools; at = at->next)
        zc_codecs_prune(ZC_CONTAINER(at, zc_pool, link));
    pthread_mutex_unlock(&store->pools_lock);
}

int zc_dictionary_remove(zc_store *store, uint32_t id)
{
    int error = 0;

    prune_pools(store);
    pthread_mutex_lock(&store->dictionaries_lock);
    struct loaded *loaded = find_locked(store, id);
    if (!loaded)
        error = -ENOENT;
    else if (zc_dictionary_is_shared(loaded->dictionary))
        error = -EBUSY;
    else
        unload(store, loaded);
    pthread_mutex_unlock(&store->dictionaries_lock);
    return error;
}
