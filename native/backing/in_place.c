/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The in-place layout: page i of one object at i * page_size. Beside each is a slot: checksum,
 * version, word. The version, which is in places too, tells a page from what is written over it
 * later.
 */
#include <errno.h>
#include <string.h>

#include "backing/inside.h"
#include "base/hash.h"

#define INDEX_BITS 32u
#define VERSION_MAX 0xffffffu
#define RECOVER_SLOTS 4096u /* read at a time */

/* A page in a batch; by index once it is committed. */
struct zc_in_place_page {
    uint32_t index;
    uint32_t number; /* in the batch, and in its buffer */
    struct zc_slot slot;
};

static zc_place place_of(uint32_t index, uint32_t version)
{
    return (uint64_t)version << INDEX_BITS | index;
}

static uint64_t seed_of(const struct zc_backing *backing, zc_place place)
{
    return zc_mix64(backing->super.id + zc_mix64(place + zc_mix64(backing->super.object)));
}

static uint64_t slot_at(uint32_t index)
{
    return ZC_WORDS_AT + (uint64_t)index * sizeof(struct zc_slot);
}

static uint64_t page_at(const struct zc_backing *backing, uint32_t index)
{
    return backing->geometry.data_at + (uint64_t)index * backing->geometry.unit;
}

static uint64_t checksum_of(const struct zc_backing *backing, zc_place place, const void *page)
{
    return zc_hash_seeded(page, backing->super.page_size, seed_of(backing, place));
}

/* ---- a batch ---- */

static size_t most_pages(const struct zc_backing *backing)
{
    return zc_batch_room(backing) / backing->super.page_size;
}

static int in_place_begin(struct zc_batch *batch)
{
    batch->pages = calloc(most_pages(batch->backing), sizeof(*batch->pages));
    return batch->pages ? 0 : -ENOMEM;
}

static void in_place_end(struct zc_batch *batch)
{
    free(batch->pages);
}

static void in_place_next(struct zc_batch *batch)
{
    (void)batch;
}

static char *page_in(const struct zc_batch *batch, uint32_t number)
{
    return batch->buffer + (size_t)number * batch->backing->super.page_size;
}

/* The first object that comes is the one. */
static int check_object(struct zc_backing *backing, uint64_t object)
{
    int error = 0;

    pthread_mutex_lock(&backing->words);
    if (!backing->super.has_object) {
        backing->super.has_object = 1;
        backing->super.object = object;
        error = zc_super_write(backing);
        backing->super.has_object = !error;
    }
    if (!error && backing->super.object != object)
        error = -EINVAL;
    pthread_mutex_unlock(&backing->words);
    return error;
}

static int in_place_add(struct zc_batch *batch, const struct zc_record *record, void **bytes)
{
    struct zc_backing *backing = batch->backing;

    if (record->size != backing->super.page_size || record->pages != 1)
        return -EINVAL;
    if (record->index >= backing->geometry.count)
        return -ERANGE;
    if (batch->count == most_pages(backing))
        return -EAGAIN;
    int error = check_object(backing, record->object);
    if (error)
        return error;
    batch->pages[batch->count] =
        (struct zc_in_place_page){.index = record->index, .number = batch->count};
    *bytes = page_in(batch, batch->count);
    return 0;
}

/* ---- writing it, run by run of adjacent pages ---- */

static int by_index(const void *a, const void *b)
{
    const struct zc_in_place_page *left = a, *right = b;

    return left->index < right->index ? -1 : left->index > right->index;
}

/* The end of the run that begins at `from`. */
static uint32_t run_end(const struct zc_batch *batch, uint32_t from)
{
    const struct zc_in_place_page *pages = batch->pages;
    uint32_t end = from + 1;

    while (end < batch->count && pages[end].index == pages[end - 1].index + 1)
        end++;
    return end;
}

/* Each page becomes a new version of what is there. */
static int number_versions(struct zc_batch *batch, uint32_t from, uint32_t to)
{
    struct zc_backing *backing = batch->backing;
    struct zc_slot slots[ZC_BATCH_PAGES];
    int error = zc_medium_read(&backing->medium, backing->medium.meta, slots,
                               (to - from) * sizeof(*slots), slot_at(batch->pages[from].index));

    for (uint32_t i = from; i < to && !error; i++) {
        struct zc_in_place_page *page = &batch->pages[i];
        uint32_t version = slots[i - from].version % VERSION_MAX + 1;
        zc_place place = place_of(page->index, version);
        page->slot =
            (struct zc_slot){.checksum = checksum_of(backing, place, page_in(batch, page->number)),
                             .version = version};
    }
    return error;
}

static int write_pages(struct zc_batch *batch, uint32_t from, uint32_t to)
{
    struct zc_backing *backing = batch->backing;
    size_t page_size = backing->super.page_size;
    struct iovec iov[ZC_BATCH_PAGES];
    int parts = 0;

    for (uint32_t i = from; i < to; i++) {
        char *page = page_in(batch, batch->pages[i].number);
        if (parts && (char *)iov[parts - 1].iov_base + iov[parts - 1].iov_len == page)
            iov[parts - 1].iov_len += page_size;
        else
            iov[parts++] = (struct iovec){page, page_size};
    }
    return zc_medium_writev(&backing->medium, backing->medium.data, iov, parts,
                            page_at(backing, batch->pages[from].index), ZC_WEAR_EVICTED);
}

static int write_slots(struct zc_batch *batch, uint32_t from, uint32_t to)
{
    struct zc_backing *backing = batch->backing;
    struct zc_slot slots[ZC_BATCH_PAGES];

    for (uint32_t i = from; i < to; i++)
        slots[i - from] = batch->pages[i].slot;
    return zc_words_write(backing, slots, (to - from) * sizeof(*slots),
                          slot_at(batch->pages[from].index));
}

static int write_run(struct zc_batch *batch, uint32_t from, uint32_t to)
{
    struct zc_backing *backing = batch->backing;
    int error = number_versions(batch, from, to);

    if (!error)
        error = write_pages(batch, from, to);
    if (error)
        return error;
    pthread_mutex_lock(&backing->words);
    error = write_slots(batch, from, to);
    pthread_mutex_unlock(&backing->words);
    return error;
}

static int in_place_commit(struct zc_batch *batch, zc_place *places)
{
    int error = 0;

    qsort(batch->pages, batch->count, sizeof(*batch->pages), by_index);
    for (uint32_t from = 0, to; from < batch->count && !error; from = to) {
        to = run_end(batch, from);
        error = write_run(batch, from, to);
    }
    for (uint32_t i = 0; i < batch->count; i++) {
        const struct zc_in_place_page *page = &batch->pages[i];
        places[page->number] = place_of(page->index, page->slot.version);
    }
    return error;
}

/* What was forgotten since may have been written anew by others. */
static int in_place_settle(struct zc_batch *batch)
{
    int error = 0;

    for (uint32_t i = 0; i < batch->count; i++) {
        struct zc_in_place_page *page = &batch->pages[i];
        zc_place place = place_of(page->index, page->slot.version);
        page->slot.word = zc_word(seed_of(batch->backing, place), batch->live[i]);
    }
    for (uint32_t from = 0, to; from < batch->count; from = to) {
        uint32_t end = run_end(batch, from);
        for (to = from; to < end && batch->live[to]; to++)
            ;
        int failed = to > from ? write_slots(batch, from, to) : 0;
        error = error ? error : failed;
        to += to == from;
    }
    return error;
}

static int64_t in_place_find(const struct zc_batch *batch, zc_place place)
{
    const struct zc_in_place_page key = {.index = (uint32_t)place};
    const struct zc_in_place_page *found =
        bsearch(&key, batch->pages, batch->count, sizeof(key), by_index);

    return found && found->slot.version == place >> INDEX_BITS ? found - batch->pages : -1;
}

/* ---- reading ---- */

static int in_place_read(struct zc_backing *backing, zc_place place, const struct zc_record *record,
                         void *room, const void **bytes)
{
    struct zc_medium *medium = &backing->medium;
    uint32_t index = (uint32_t)place;
    size_t page_size = backing->super.page_size;
    struct zc_slot slot;

    if (index >= backing->geometry.count || index != record->index || record->size != page_size)
        return -ENOENT;
    if (zc_medium_read(medium, medium->meta, &slot, sizeof(slot), slot_at(index)))
        return -EIO;
    if (slot.version != place >> INDEX_BITS)
        return -ENOENT;
    if (zc_medium_read(medium, medium->data, room, page_size, page_at(backing, index)))
        return -EIO;
    *bytes = room;
    return checksum_of(backing, place, room) == slot.checksum ? 0 : -EIO;
}

/* ---- recovery ---- */

static void recover_slot(struct zc_backing *backing, uint32_t index, const struct zc_slot *slot,
                         zc_recover_visit *visit, void *arg)
{
    zc_place place = place_of(index, slot->version);
    bool is_sound = slot->version >= 1 && slot->version <= VERSION_MAX &&
                    zc_word_live(seed_of(backing, place), slot->word) == 1;
    struct zc_record record = {.object = backing->super.object,
                               .index = index,
                               .size = backing->super.page_size,
                               .live = 1,
                               .pages = 1};

    if (!is_sound || !backing->super.has_object) {
        backing->damaged++;
        return;
    }
    if (!visit(arg, &record, place)) {
        zc_words_set(backing, place, 0);
        return;
    }
    backing->records++;
    backing->live_bytes += record.size;
}

static int in_place_recover(struct zc_backing *backing, zc_recover_visit *visit, void *arg)
{
    uint64_t count = backing->geometry.count;
    struct zc_slot *slots = malloc(RECOVER_SLOTS * sizeof(*slots));
    int error = slots ? 0 : -ENOMEM;

    for (uint64_t from = 0; from < count && !error; from += RECOVER_SLOTS) {
        size_t some = count - from < RECOVER_SLOTS ? (size_t)(count - from) : RECOVER_SLOTS;
        error = zc_medium_read(&backing->medium, backing->medium.meta, slots, some * sizeof(*slots),
                               slot_at((uint32_t)from));
        for (size_t i = 0; i < some && !error; i++) {
            if (slots[i].word)
                recover_slot(backing, (uint32_t)(from + i), &slots[i], visit, arg);
        }
    }
    free(slots);
    return error;
}

/* ---- what becomes of a page ---- */

static uint32_t in_place_word(const struct zc_backing *backing, zc_place place, uint16_t live,
                              uint64_t *at)
{
    *at = slot_at((uint32_t)place) + offsetof(struct zc_slot, word);
    return zc_word(seed_of(backing, place), live);
}

static void in_place_gone(struct zc_backing *backing, zc_place place, uint32_t size)
{
    (void)backing;
    (void)place;
    (void)size;
}

static int in_place_create(struct zc_backing *backing)
{
    (void)backing;
    return 0;
}

const struct zc_layout_ops zc_in_place_ops = {
    .create = in_place_create,
    .recover = in_place_recover,
    .begin = in_place_begin,
    .next = in_place_next,
    .end = in_place_end,
    .add = in_place_add,
    .commit = in_place_commit,
    .settle = in_place_settle,
    .read = in_place_read,
    .find = in_place_find,
    .word = in_place_word,
    .gone = in_place_gone,
};
