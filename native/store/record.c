/* SPDX-License-Identifier: Apache-2.0 */
#include "store/record.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/large.h"

#define WORTH (ZC_RECORD_EVENTS / 16) /* events that wake who waits for some */

/* A codec that pages are tried with. */
struct zc_try {
    struct zc_codec *codec;
    unsigned pages;
    size_t size;  /* bytes of memory */
    char *memory; /* its states, a run of pages, that run compressed, and that again as pages */
    char *decompressor, *run, *bytes, *again;
};

static void charge(zc_pool *pool, ptrdiff_t bytes)
{
    atomic_fetch_add_explicit(&pool->metadata_bytes, (size_t)bytes, memory_order_relaxed);
    zc_frames_charge(pool->store->frames, bytes);
}

static void *get_memory(zc_pool *pool, size_t size)
{
    void *memory = zc_large_get(size);

    if (memory)
        charge(pool, (ptrdiff_t)zc_large_bytes(size));
    return memory;
}

static void put_memory(zc_pool *pool, void *memory, size_t size)
{
    if (memory)
        charge(pool, -(ptrdiff_t)zc_large_bytes(size));
    zc_large_put(memory, size);
}

/* ---- events ---- */

uint32_t zc_recorder_time(const struct zc_recorder *recorder)
{
    return (uint32_t)((zc_store_ns(recorder->pool->store) - recorder->start_ns) / 1000);
}

void zc_recorder_note(struct zc_recorder *recorder, const struct zc_event *event)
{
    pthread_mutex_lock(&recorder->lock);
    if (recorder->ring && recorder->count < ZC_RECORD_EVENTS) {
        recorder->ring[(recorder->first + recorder->count) % ZC_RECORD_EVENTS] = *event;
        if (++recorder->count == WORTH)
            pthread_cond_signal(&recorder->filled);
    } else {
        recorder->lost++;
    }
    pthread_mutex_unlock(&recorder->lock);
}

/* Waits until it is worth while to take some, up to `wait_ms`. The ring is locked. */
static void wait_for_some(struct zc_recorder *recorder, unsigned wait_ms)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    uint64_t ns = (uint64_t)until.tv_nsec + wait_ms * UINT64_C(1000000);
    until.tv_sec += (time_t)(ns / ZC_SECOND_NS);
    until.tv_nsec = (long)(ns % ZC_SECOND_NS);
    while (recorder->count < WORTH && !recorder->pool->dead &&
           pthread_cond_timedwait(&recorder->filled, &recorder->lock, &until) == 0)
        ;
}

static size_t take_ring(struct zc_recorder *recorder, struct zc_event *events, size_t max,
                        unsigned wait_ms, uint64_t *lost)
{
    pthread_mutex_lock(&recorder->lock);
    if (wait_ms)
        wait_for_some(recorder, wait_ms);
    size_t count = zc_min(recorder->count, max);
    for (size_t i = 0; i < count; i++)
        events[i] = recorder->ring[(recorder->first + i) % ZC_RECORD_EVENTS];
    recorder->first = (recorder->first + count) % ZC_RECORD_EVENTS;
    recorder->count -= count;
    *lost = recorder->lost;
    pthread_mutex_unlock(&recorder->lock);
    return count;
}

/* ---- pages that were there before ---- */

static bool is_any(void *arg, const struct zc_shard *shard, struct zc_entry *entry)
{
    (void)arg;
    (void)shard;
    return entry->kind != ZC_ENTRY_EMPTY;
}

/* False: it has gone meanwhile. */
static bool tell_held(zc_pool *pool, uint64_t owner, uint16_t now, struct zc_event *event)
{
    struct zc_shard *shard;
    uint64_t object;
    struct zc_entry *entry = zc_entry_lock_any(pool, owner, &shard, &object);
    if (!entry)
        return false;

    bool is_aged = zc_entry_has_zpage(entry) || zc_entry_is_cold(entry);
    *event = (struct zc_event){
        .object = object,
        .index = entry->index,
        .size = entry->kind == ZC_ENTRY_ZPAGE ? entry->size : 0,
        .kind = ZC_EVENT_HELD,
        .detail = entry->kind,
        .codec_ns = is_aged ? zc_entry_idle(entry, now) : 0,
    };
    zc_shard_unlock(shard);
    return true;
}

/* As many as there is room for. 0, or -ENOMEM. */
static int take_held(struct zc_recorder *recorder, struct zc_event *events, size_t max,
                     size_t *count)
{
    zc_pool *pool = recorder->pool;
    struct zc_owners *owners = &recorder->owners;
    uint16_t now = zc_store_now(pool->store);

    while (recorder->shard < ZC_SHARDS && *count < max) {
        if (owners->list && recorder->at < owners->count) {
            *count += tell_held(pool, owners->list[recorder->at++], now, &events[*count]);
            continue;
        }
        recorder->shard += owners->list != NULL;
        free(owners->list);
        owners->list = NULL;
        recorder->at = 0;
        while (recorder->shard < ZC_SHARDS && !owners->list) {
            if (zc_owners_list(pool, &pool->shards[recorder->shard], SIZE_MAX, is_any, NULL,
                               owners) != 0)
                return -ENOMEM;
            recorder->shard += owners->list == NULL;
        }
    }
    return 0;
}

int zc_record_take(zc_pool *pool, struct zc_event *events, size_t max, unsigned wait_ms,
                   struct zc_recorded *out)
{
    struct zc_recorder *recorder = zc_recorder_of(pool);

    *out = (struct zc_recorded){0};
    if (!recorder || pool->dead)
        return -ENOENT;
    bool is_walking = recorder->shard < ZC_SHARDS;
    out->count = take_ring(recorder, events, max, is_walking ? 0 : wait_ms, &out->lost);
    int error = is_walking ? take_held(recorder, events, max, &out->count) : 0;
    out->time_us = (zc_store_ns(pool->store) - recorder->start_ns) / 1000;
    return error;
}

/* ---- other codecs ---- */

static void free_tries(struct zc_recorder *recorder)
{
    struct zc_try *tries = recorder->tries;

    for (unsigned i = 0; tries && i < recorder->try_count; i++) {
        put_memory(recorder->pool, tries[i].memory, tries[i].size);
        zc_codec_destroy(tries[i].codec);
    }
    free(tries);
    recorder->tries = NULL;
    recorder->try_count = 0;
}

static struct zc_dictionary *find_dictionary(void *store, uint32_t id)
{
    return zc_dictionaries_find(store, id);
}

static size_t aligned(size_t size)
{
    return (size + ZC_STATE_ALIGN - 1) / ZC_STATE_ALIGN * ZC_STATE_ALIGN;
}

static int make_try(zc_pool *pool, const struct zc_record_try *wish, struct zc_try *made,
                    struct zc_text *why)
{
    size_t run = wish->pages * pool->store->page_size;

    if (!zc_is_pow2(wish->pages) || wish->pages > ZC_EXTENT_PAGES || run > ZC_PAGE_SIZE_MAX) {
        if (why)
            zc_text_add(why, "record: %u pages at once: 1, 2, 4, 8 or 16, of %u bytes at most",
                        wish->pages, ZC_PAGE_SIZE_MAX);
        return -EINVAL;
    }
    int error = zc_codec_create(wish->codec, pool->store->page_size, wish->pages, find_dictionary,
                                pool->store, &made->codec, why);
    if (error)
        return error;
    size_t compressor = aligned(made->codec->compressor_size);
    size_t decompressor = aligned(made->codec->decompressor_size);
    made->pages = wish->pages;
    made->size = compressor + decompressor + 2 * run + made->codec->bound;
    made->memory = get_memory(pool, made->size);
    if (!made->memory)
        return -ENOMEM;
    made->decompressor = made->memory + compressor;
    made->run = made->decompressor + decompressor;
    made->again = made->run + run;
    made->bytes = made->again + run;
    zc_compressor_init(made->codec, made->memory);
    zc_decompressor_init(made->codec, made->decompressor);
    return 0;
}

static int make_tries(struct zc_recorder *recorder, const struct zc_record_config *config,
                      struct zc_text *why)
{
    int error = 0;

    recorder->tries = calloc(config->count, sizeof(*recorder->tries));
    if (!recorder->tries)
        return config->count ? -ENOMEM : 0;
    recorder->try_count = config->count;
    for (unsigned i = 0; !error && i < config->count; i++)
        error = make_try(recorder->pool, &config->tries[i], &recorder->tries[i], why);
    if (error)
        free_tries(recorder);
    return error;
}

/* Does an aligned run of so many pages begin with page i? Not if it is not there as a whole, or has pages that are never
 * compressed with others. By its first page alone, a run is tried as often as a page is, not once for each of its. */
static bool is_run(const struct zc_key *keys, const uint32_t *sizes, size_t count, size_t i,
                   unsigned pages)
{
    if (keys[i].index % pages || i + pages > count)
        return false;
    for (unsigned n = 0; n < pages; n++) {
        const struct zc_key *key = &keys[i + n];
        if (key->object != keys[i].object || key->index != keys[i].index + n || !sizes[i + n])
            return false;
    }
    return true;
}

/* Compresses the run, and makes it pages again; the times are left in the event. */
static void try_run(const struct zc_try *try, const void *const *pages, struct zc_event *event)
{
    size_t page_size = try->codec->page_size / try->pages;

    for (unsigned i = 0; i < try->pages; i++)
        memcpy(try->run + i * page_size, pages[i], page_size);
    uint64_t start = zc_now_ns();
    size_t size = zc_compress(try->codec, try->memory, try->run, try->bytes);
    uint64_t middle = zc_now_ns();
    int error = zc_decompress(try->codec, try->decompressor, try->bytes, size, try->again);

    event->ns = zc_event_ns(zc_now_ns() - middle);
    event->codec_ns = zc_event_ns(middle - start);
    event->size = (uint32_t)size;
    event->result = error != 0;
}

/* A codec that was not used for a while takes twice as long as one that compresses page after page, as a pool's does:
 * so the next page goes first, unless what is tried is long by itself. */
static void try_page(struct zc_recorder *recorder, unsigned which, const struct zc_key *keys,
                     const void *const *pages, size_t count, size_t first)
{
    const struct zc_try *try = &recorder->tries[which];
    struct zc_event event = {.object = keys[first].object,
                             .index = keys[first].index,
                             .time_us = zc_recorder_time(recorder),
                             .kind = ZC_EVENT_TRIED,
                             .detail = (uint8_t)which};

    if (try->pages == 1)
        try_run(try, &pages[first + 1 < count ? first + 1 : 0], &event);
    try_run(try, &pages[first], &event);
    zc_recorder_note(recorder, &event);
}

/* One in `every` on average, at no fixed distance: pages come in batches of powers of two. */
static uint64_t distance(const struct zc_recorder *recorder)
{
    return zc_mix64(recorder->tried + 1) % (2 * (uint64_t)recorder->every - 1);
}

static void try_some(struct zc_recorder *recorder, const struct zc_key *keys,
                     const void *const *pages, const uint32_t *sizes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!sizes[i])
            continue;
        if (recorder->until > 0) {
            recorder->until--;
            continue;
        }
        for (unsigned which = 0; which < recorder->try_count; which++) {
            if (is_run(keys, sizes, count, i, recorder->tries[which].pages))
                try_page(recorder, which, keys, pages, count, i);
        }
        recorder->tried++;
        recorder->until = distance(recorder);
    }
}

void zc_recorder_try(struct zc_recorder *recorder, const struct zc_key *keys,
                     const void *const *pages, const uint32_t *sizes, size_t count)
{
    if (pthread_mutex_trylock(&recorder->tried_lock) != 0)
        return; /* nobody waits for that */
    if (recorder->tries)
        try_some(recorder, keys, pages, sizes, count);
    pthread_mutex_unlock(&recorder->tried_lock);
}

/* ---- a recording ---- */

/* What a pool has once it was recorded, as somebody may look at it at any time. */
static struct zc_recorder *recorder_of(zc_pool *pool)
{
    struct zc_recorder *none = NULL, *made = atomic_load(&pool->recorder);

    if (made || !(made = calloc(1, sizeof(*made))))
        return made;
    made->pool = pool;
    pthread_mutex_init(&made->lock, NULL);
    pthread_cond_init(&made->filled, NULL);
    pthread_mutex_init(&made->tried_lock, NULL);
    if (atomic_compare_exchange_strong(&pool->recorder, &none, made)) {
        charge(pool, sizeof(*made));
        return made;
    }
    pthread_mutex_destroy(&made->lock);
    pthread_cond_destroy(&made->filled);
    pthread_mutex_destroy(&made->tried_lock);
    free(made);
    return none;
}

static int make_ring(struct zc_recorder *recorder)
{
    struct zc_event *ring = get_memory(recorder->pool, ZC_RECORD_EVENTS * sizeof(struct zc_event));
    if (!ring)
        return -ENOMEM;

    pthread_mutex_lock(&recorder->lock);
    bool is_mine = !recorder->ring;
    if (is_mine)
        recorder->ring = ring;
    pthread_mutex_unlock(&recorder->lock);
    if (is_mine)
        return 0;
    put_memory(recorder->pool, ring, ZC_RECORD_EVENTS * sizeof(*ring));
    return -EBUSY;
}

int zc_record_start(zc_pool *pool, const struct zc_record_config *config, struct zc_text *why)
{
    if (config->every == 0 || config->count > ZC_RECORD_TRIES)
        return -EINVAL;
    if (pool->dead)
        return -ENOENT;
    struct zc_recorder *recorder = recorder_of(pool);
    int error = recorder ? make_ring(recorder) : -ENOMEM;
    if (error)
        return error;

    pthread_mutex_lock(&recorder->tried_lock);
    recorder->every = config->every;
    recorder->until = recorder->tried = 0;
    error = make_tries(recorder, config, why);
    pthread_mutex_unlock(&recorder->tried_lock);
    pthread_mutex_lock(&recorder->lock);
    recorder->lost = 0;
    pthread_mutex_unlock(&recorder->lock);
    recorder->shard = 0;
    recorder->at = 0;
    recorder->start_ns = zc_store_ns(pool->store);
    recorder->is_on = true;
    if (error)
        zc_record_stop(pool);
    return error;
}

void zc_record_stop(zc_pool *pool)
{
    struct zc_recorder *recorder = zc_recorder_of(pool);
    if (!recorder)
        return;

    recorder->is_on = false;
    pthread_mutex_lock(&recorder->tried_lock);
    free_tries(recorder);
    pthread_mutex_unlock(&recorder->tried_lock);
    free(recorder->owners.list);
    recorder->owners = (struct zc_owners){0};

    pthread_mutex_lock(&recorder->lock);
    struct zc_event *ring = recorder->ring;
    recorder->ring = NULL;
    recorder->first = recorder->count = 0;
    pthread_mutex_unlock(&recorder->lock);
    put_memory(pool, ring, ZC_RECORD_EVENTS * sizeof(*ring));
}

void zc_recorder_fini(zc_pool *pool)
{
    struct zc_recorder *recorder = pool->recorder;
    if (!recorder)
        return;

    zc_record_stop(pool);
    pthread_mutex_destroy(&recorder->lock);
    pthread_cond_destroy(&recorder->filled);
    pthread_mutex_destroy(&recorder->tried_lock);
    charge(pool, -(ptrdiff_t)sizeof(*recorder));
    free(recorder);
}
