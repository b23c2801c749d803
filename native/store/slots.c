/* SPDX-License-Identifier: Apache-2.0 */
#include "store/slots.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/base.h"
#include "store/pool.h"

#define DICTIONARY ":dict="

/* -E2BIG: cannot be, with the specs there are. */
static int spec_of(const struct zc_codec *codec, char *spec)
{
    struct zc_text text = {0};

    zc_codec_spec(codec, &text);
    if (codec->dictionary)
        zc_text_add(&text, " %" PRIx64, zc_dictionary_hash(codec->dictionary));
    int error = text.error ? text.error : text.len > ZC_SLOT_SPEC_MAX ? -E2BIG : 0;
    if (!error)
        strcpy(spec, text.data);
    zc_text_free(&text);
    return error;
}

static bool has_serial(const zc_pool *pool, uint64_t serial)
{
    for (unsigned i = 0; i < ZC_POOL_CODECS; i++) {
        if (pool->codecs.by_number[i].codec && pool->codecs.by_number[i].serial == serial)
            return true;
    }
    return false;
}

static unsigned find_serial(const struct zc_slots *slots, uint64_t serial)
{
    unsigned slot = 0;

    while (slot < ZC_POOL_CODECS && slots->at[slot].serial != serial)
        slot++;
    return slot;
}

/* A slot whose codec the pool has no more. */
static unsigned find_unused(const struct zc_slots *slots, const zc_pool *pool)
{
    unsigned slot = 0;

    while (slots->at[slot].serial && has_serial(pool, slots->at[slot].serial))
        slot++;
    ZC_ASSERT(slot < ZC_POOL_CODECS);
    return slot;
}

/* Under the lock of the pool's codecs. */
static int assign(struct zc_slots *slots, const zc_pool *pool, bool *is_changed)
{
    int error = 0;

    for (unsigned i = 0; !error && i < ZC_POOL_CODECS; i++) {
        const struct zc_codec *codec = pool->codecs.by_number[i].codec;
        uint64_t serial = pool->codecs.by_number[i].serial;
        if (!codec || find_serial(slots, serial) < ZC_POOL_CODECS)
            continue;
        unsigned slot = find_unused(slots, pool);
        error = spec_of(codec, slots->at[slot].spec);
        slots->at[slot].serial = serial;
        *is_changed = true;
    }
    return error;
}

static int write_slots(const struct zc_slots *slots, struct zc_backing *store)
{
    struct zc_text text = {0};

    for (unsigned i = 0; i < ZC_POOL_CODECS; i++) {
        if (slots->at[i].spec[0])
            zc_text_add(&text, "%u %s\n", i, slots->at[i].spec);
    }
    int error = text.error ? text.error : zc_backing_set_codecs(store, text.data, text.len);
    zc_text_free(&text);
    return error;
}

int zc_slots_update(struct zc_slots *slots, zc_pool *pool, struct zc_backing *store)
{
    struct zc_slots changed = *slots;
    bool is_changed = false;

    pthread_mutex_lock(&pool->codecs.lock);
    int error = assign(&changed, pool, &is_changed);
    pthread_mutex_unlock(&pool->codecs.lock);
    if (error || !is_changed)
        return error;
    error = write_slots(&changed, store);
    if (!error)
        *slots = changed;
    return error;
}

unsigned zc_slots_find(const struct zc_slots *slots, const zc_pool *pool, unsigned number)
{
    return find_serial(slots, pool->codecs.by_number[number].serial);
}

/* "SLOT SPEC[ HASH]". */
static int read_line(struct zc_slots *slots, const char *line, size_t len)
{
    char copy[ZC_SLOT_SPEC_MAX + 8], *spec;

    if (len >= sizeof(copy))
        return -EUCLEAN;
    memcpy(copy, line, len);
    copy[len] = '\0';
    unsigned long slot = strtoul(copy, &spec, 10);
    if (spec == copy || *spec++ != ' ' || slot >= ZC_POOL_CODECS || strlen(spec) > ZC_SLOT_SPEC_MAX)
        return -EUCLEAN;
    strcpy(slots->at[slot].spec, spec);
    return 0;
}

int zc_slots_read(struct zc_slots *slots, struct zc_backing *store)
{
    size_t left;
    const char *at = zc_backing_codecs(store, &left);
    int error = 0;

    *slots = (struct zc_slots){0};
    while (!error && left > 0) {
        const char *end = memchr(at, '\n', left);
        if (!end)
            return -EUCLEAN;
        error = read_line(slots, at, (size_t)(end - at));
        left -= (size_t)(end + 1 - at);
        at = end + 1;
    }
    return error;
}

/* The spec as this store's dictionaries are numbered. */
static int translate(const char *kept, zc_pool *pool, char *spec, size_t size, struct zc_text *why)
{
    const char *hash = strchr(kept, ' ');
    const char *dictionary = strstr(kept, DICTIONARY);
    uint64_t wanted;

    if (!hash || !dictionary) {
        snprintf(spec, size, "%s", kept);
        return 0;
    }
    wanted = strtoull(hash, NULL, 16);
    uint32_t id = zc_dictionaries_by_hash(pool->store, wanted);
    if (!id) {
        zc_text_add(why,
                    "pages there need the dictionary with the hash %016" PRIx64 "; load it first",
                    wanted);
        return -ENOENT;
    }
    snprintf(spec, size, "%.*s" DICTIONARY "%" PRIu32, (int)(dictionary - kept), kept, id);
    return 0;
}

int zc_slots_hold(struct zc_slots *slots, unsigned slot, unsigned pages, zc_pool *pool,
                  unsigned *number, struct zc_text *why)
{
    char spec[ZC_SLOT_SPEC_MAX + 16];

    if (slot >= ZC_POOL_CODECS || !slots->at[slot].spec[0]) {
        zc_text_add(why, "a page there is of a codec that is not told");
        return -EUCLEAN;
    }
    int error = translate(slots->at[slot].spec, pool, spec, sizeof(spec), why);
    if (!error)
        error = zc_codecs_hold(pool, spec, pages, number, why);
    if (!error)
        slots->at[slot].serial = pool->codecs.by_number[*number].serial;
    return error;
}
