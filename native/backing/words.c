/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Words: beside each record on the medium, which of its pages are live. A word is written before
 * the call that changes it returns, through the page cache, so that it survives the process.
 *
 * Mostly that is one write without a lock. Care is needed while a batch is between commit and
 * settle, because settling must not make live what was forgotten meanwhile; and after a write has
 * failed. Then the words are owed: they are kept here in their order, the superblock says that they
 * are missing, and whoever comes next tries to write them first.
 */
#include <errno.h>
#include <string.h>

#include "backing/inside.h"

struct owed {
    uint64_t at;
    size_t size; /* bytes that follow */
};

uint32_t zc_word(uint64_t seed, uint16_t live)
{
    return live ? (uint32_t)(zc_mix64(seed ^ live) >> 48) << 16 | live : 0;
}

int zc_word_live(uint64_t seed, uint32_t word)
{
    uint16_t live = (uint16_t)word;

    return word == zc_word(seed, live) ? live : -1;
}

static int write_word(struct zc_backing *backing, const void *bytes, size_t size, uint64_t at)
{
    return zc_medium_write(&backing->medium, backing->medium.meta, bytes, size, at,
                           ZC_WEAR_METADATA);
}

/* ---- what is owed ---- */

static int mark(struct zc_backing *backing, enum zc_super_state state)
{
    backing->super.state = state;
    return zc_super_write(backing);
}

static void owe(struct zc_backing *backing, const void *bytes, size_t size, uint64_t at)
{
    struct owed owed = {at, size};
    size_t before = backing->owed.len;

    if (!atomic_exchange(&backing->is_failed, true))
        atomic_fetch_add(&backing->care, 1);
    zc_text_append(&backing->owed, (const char *)&owed, sizeof(owed));
    zc_text_append(&backing->owed, bytes, size);
    zc_backing_charge(backing, (ptrdiff_t)(backing->owed.len - before));
    if (!backing->is_marked)
        backing->is_marked = mark(backing, ZC_SUPER_OWING) == 0;
}

/* With `words` locked. */
static int repay(struct zc_backing *backing)
{
    struct zc_text *text = &backing->owed;
    struct owed owed;
    int error = 0;

    if (!atomic_load(&backing->is_failed))
        return 0;
    if (text->error) /* not even noted, for want of memory: that cannot be mended */
        return -EIO;
    while (!error && backing->repaid < text->len) {
        memcpy(&owed, text->data + backing->repaid, sizeof(owed));
        error =
            write_word(backing, text->data + backing->repaid + sizeof(owed), owed.size, owed.at);
        if (!error)
            backing->repaid += sizeof(owed) + owed.size;
    }
    if (error)
        return -EIO;
    backing->is_marked = false; /* or half so */
    if (mark(backing, ZC_SUPER_OPEN) != 0)
        return -EIO;
    zc_backing_charge(backing, -(ptrdiff_t)text->len);
    zc_text_free(text);
    backing->repaid = 0;
    atomic_store(&backing->is_failed, false);
    atomic_fetch_sub(&backing->care, 1);
    return 0;
}

int zc_words_write(struct zc_backing *backing, const void *bytes, size_t size, uint64_t at)
{
    int error = repay(backing);

    if (!error)
        error = write_word(backing, bytes, size, at);
    if (error)
        owe(backing, bytes, size, at);
    return error;
}

int zc_words_mend(struct zc_backing *backing)
{
    if (!atomic_load(&backing->is_failed))
        return 0;
    pthread_mutex_lock(&backing->words);
    int error = repay(backing);
    pthread_mutex_unlock(&backing->words);
    return error;
}

/* ---- one record's word ---- */

/* Notes what a record's word is to be once its batch is settled. False: it is in none. */
static bool note(struct zc_backing *backing, zc_place place, uint16_t live)
{
    for (struct zc_batch *batch = backing->unsettled; batch; batch = batch->next) {
        int64_t i = backing->ops->find(batch, place);
        if (i >= 0) {
            batch->live[i] = live;
            return true;
        }
    }
    return false;
}

int zc_words_set(struct zc_backing *backing, zc_place place, uint16_t live)
{
    uint64_t at;
    uint32_t word = backing->ops->word(backing, place, live, &at);
    int error = 0;

    if (atomic_load(&backing->care) == 0 && write_word(backing, &word, sizeof(word), at) == 0)
        return 0;
    pthread_mutex_lock(&backing->words);
    if (!note(backing, place, live))
        error = zc_words_write(backing, &word, sizeof(word), at);
    pthread_mutex_unlock(&backing->words);
    return error;
}

/* ---- batches between commit and settle ---- */

void zc_words_unsettled(struct zc_backing *backing, struct zc_batch *batch)
{
    pthread_mutex_lock(&backing->words);
    batch->next = backing->unsettled;
    backing->unsettled = batch;
    batch->is_committed = true;
    atomic_fetch_add(&backing->care, 1);
    pthread_mutex_unlock(&backing->words);
}

static void unlink_batch(struct zc_backing *backing, struct zc_batch *batch)
{
    struct zc_batch **link = &backing->unsettled;

    while (*link != batch)
        link = &(*link)->next;
    *link = batch->next;
    batch->is_committed = false;
    atomic_fetch_sub(&backing->care, 1);
}

int zc_words_settle(struct zc_backing *backing, struct zc_batch *batch)
{
    pthread_mutex_lock(&backing->words);
    int error = backing->ops->settle(batch);
    unlink_batch(backing, batch);
    pthread_mutex_unlock(&backing->words);
    return error;
}
