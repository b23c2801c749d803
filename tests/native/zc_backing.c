/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Drives a backing store by lines on standard input, one line of answer each, as a pool would: it
 * knows by key where a page's record is. The system calls below the store can be made to fail, or
 * be the last thing this process does.
 *
 *   open PATH packed|in_place PAGE_SIZE SIZE POOL CODECS [reset] [reset=stale] [direct] [proc=DIR]
 *                                    ok | err NAME WHY
 *   recover [REFUSED…]               found OBJECT:INDEX:PAGES:LIVE:SIZE:SEED:CODEC:FLAGS …; SEED is -
 *                                    for one that cannot be read; OBJECT:INDEX of those refused
 *   add OBJECT INDEX PAGES LIVE SIZE SEED CODEC FLAGS   to the batch; what was at the key is forgotten
 *   change OBJECT INDEX              the page is another now: once committed, the record is forgotten
 *   commit                           ok N
 *   late OBJECT INDEX                forgets it between commit and settle
 *   settle
 *   forget OBJECT INDEX
 *   keep OBJECT INDEX LIVE
 *   read OBJECT INDEX                SEED CODEC FLAGS LIVE
 *   clean WANT SHARE                 freed N moved N forgotten N: of those asked about, the ones with
 *                                    INDEX % 8 < SHARE are forgotten in that moment
 *   codecs TEXT                      sets
 *   what                             the codecs
 *   stats                            NAME=VALUE …
 *   fault CALL NAME AFTER COUNT      of the next calls, COUNT fail, after so many; NAME: an errno's, or
 *                                    short
 *   die AFTER [half]                 at the next call but AFTER of those that write; half: of it done
 *   calls                            N that wrote, since the start
 *   close clean|dirty
 *
 * A record's bytes all follow from SEED. A failure is "err NAME".
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "backing/backing.h"
#include "base/node.h"
#include "check.h"
#include "faulty_io.h"
#include "words.h"

#define KEYS 8192
#define BATCH_MAX 4096

/* What a pool knows of a key. */
struct entry {
    bool is_used;
    struct zc_record record;
    zc_place place; /* 0: forgotten */
    uint32_t seed;
};

struct pending {
    struct zc_record record;
    uint32_t seed;
    bool is_changed;
};

struct driver {
    struct zc_backing *backing;
    struct zc_batch *batch;
    size_t batches; /* so far */
    struct entry entries[KEYS];
    struct pending pending[BATCH_MAX];
    zc_place places[BATCH_MAX];
    size_t pending_count;
    char *room;
    size_t room_size;
    unsigned share; /* of the running clean */
    size_t moved, forgotten;
    struct words *words; /* of the running recover */
};

static void answer(int error)
{
    char buf[16];

    if (error)
        printf("err %s\n", zc_errno_name(error, buf));
    else
        printf("ok\n");
}

/* ---- contents ---- */

static void content(char *bytes, size_t size, uint32_t seed)
{
    pattern_fill(bytes, size, seed);
    memcpy(bytes, &seed, sizeof(seed));
}

static bool content_is(const char *bytes, size_t size, uint32_t *seed)
{
    char *expected = malloc(size);

    CHECK(size >= sizeof(*seed));
    memcpy(seed, bytes, sizeof(*seed));
    content(expected, size, *seed);
    bool is_so = memcmp(bytes, expected, size) == 0;
    free(expected);
    return is_so;
}

/* ---- what the pool knows ---- */

static struct entry *entry_of(struct driver *driver, uint64_t object, uint32_t index)
{
    size_t at = (size_t)(zc_mix64(object + zc_mix64(index)) % KEYS);

    for (size_t tries = 0; tries < KEYS; tries++, at = (at + 1) % KEYS) {
        struct entry *entry = &driver->entries[at];
        if (!entry->is_used) {
            entry->is_used = true;
            entry->record.object = object;
            entry->record.index = index;
            return entry;
        }
        if (entry->record.object == object && entry->record.index == index)
            return entry;
    }
    CHECK(!"room for a key");
    return NULL;
}

static struct entry *entry_named(struct driver *driver, const struct words *words)
{
    return entry_of(driver, number(words->word[1]), (uint32_t)number(words->word[2]));
}

static int forget(struct driver *driver, struct entry *entry)
{
    int error =
        entry->place ? zc_backing_forget(driver->backing, entry->place, entry->record.size) : 0;

    entry->place = 0;
    return error;
}

static char *room_for(struct driver *driver, size_t size)
{
    if (driver->room_size < zc_backing_room(size)) {
        free(driver->room);
        driver->room_size = zc_backing_room(size);
        driver->room = aligned_alloc(ZC_BLOCK, driver->room_size);
        CHECK(driver->room);
    }
    return driver->room;
}

static int read_entry(struct driver *driver, const struct entry *entry, uint32_t *seed)
{
    const void *bytes;
    int error = zc_backing_read(driver->backing, entry->place, &entry->record,
                                room_for(driver, entry->record.size), &bytes);

    if (!error)
        CHECK(content_is(bytes, entry->record.size, seed));
    return error;
}

/* ---- commands ---- */

static void command_open(struct driver *driver, const struct words *words)
{
    struct zc_text why = {0};
    char buf[16];
    struct zc_backing_config config = {
        .path = words->word[1],
        .layout = strcmp(words->word[2], "packed") == 0 ? ZC_PACKED : ZC_IN_PLACE,
        .page_size = (uint32_t)number(words->word[3]),
        .size = number(words->word[4]),
        .pool = words->word[5],
        .codecs = words->word[6],
        .codecs_size = strlen(words->word[6]),
        .io = &faulty_io,
    };

    for (size_t i = 7; i < words->count; i++) {
        config.reset |= strcmp(words->word[i], "reset") == 0;
        config.reset_stale |= strcmp(words->word[i], "reset=stale") == 0;
        config.must_be_direct |= strcmp(words->word[i], "direct") == 0;
        if (strncmp(words->word[i], "proc=", 5) == 0)
            config.proc_dir = words->word[i] + 5;
    }
    int error = zc_backing_open(&config, &driver->backing, &why);
    if (error)
        printf("err %s %s\n", zc_errno_name(error, buf), why.data ? why.data : "-");
    else
        printf("ok\n");
    zc_text_free(&why);
}

static bool is_refused(const struct words *words, const struct zc_record *record)
{
    char name[64];

    snprintf(name, sizeof(name), "%" PRIu64 ":%" PRIu32, record->object, record->index);
    for (size_t i = 1; i < words->count; i++) {
        if (strcmp(words->word[i], name) == 0)
            return true;
    }
    return false;
}

static bool visit(void *arg, const struct zc_record *record, zc_place place)
{
    struct driver *driver = arg;
    struct entry *entry = entry_of(driver, record->object, record->index);

    if (is_refused(driver->words, record))
        return false;
    if (entry->place) { /* twice: both are the same */
        CHECK(memcmp(&entry->record, record, sizeof(*record)) == 0);
        return false;
    }
    entry->record = *record;
    entry->place = place;
    return true;
}

static void command_recover(struct driver *driver, struct words *words)
{
    driver->words = words;
    int error = zc_backing_recover(driver->backing, visit, driver);
    if (error) {
        answer(error);
        return;
    }
    printf("found");
    for (size_t i = 0; i < KEYS; i++) {
        struct entry *entry = &driver->entries[i];
        const struct zc_record *record = &entry->record;
        if (!entry->place)
            continue;
        printf(" %" PRIu64 ":%" PRIu32 ":%u:%u:%" PRIu32 ":", record->object, record->index,
               record->pages, record->live, record->size);
        if (read_entry(driver, entry, &entry->seed) == 0)
            printf("%" PRIu32, entry->seed);
        else
            printf("-");
        printf(":%u:%u", record->codec, record->flags);
    }
    printf("\n");
}

static void command_add(struct driver *driver, const struct words *words)
{
    struct zc_record record = {
        .object = number(words->word[1]),
        .index = (uint32_t)number(words->word[2]),
        .pages = (uint8_t)number(words->word[3]),
        .live = (uint16_t)number(words->word[4]),
        .size = (uint32_t)number(words->word[5]),
        .codec = (uint8_t)number(words->word[7]),
        .flags = (uint8_t)number(words->word[8]),
    };
    uint32_t seed = (uint32_t)number(words->word[6]);
    void *bytes;
    int error = driver->batch
                    ? 0
                    : zc_batch_create(driver->backing, driver->batches++ % 2 ? SIZE_MAX : 0,
                                      &driver->batch);

    forget(driver, entry_of(driver, record.object, record.index));
    if (!error)
        error = zc_batch_add(driver->batch, &record, &bytes);
    if (!error) {
        content(bytes, record.size, seed);
        CHECK(driver->pending_count < BATCH_MAX);
        driver->pending[driver->pending_count++] = (struct pending){record, seed, false};
    }
    answer(error);
}

static void command_change(struct driver *driver, const struct words *words)
{
    for (size_t i = 0; i < driver->pending_count; i++) {
        struct pending *pending = &driver->pending[i];
        if (pending->record.object == number(words->word[1]) &&
            pending->record.index == number(words->word[2]))
            pending->is_changed = true;
    }
    answer(0);
}

static void command_commit(struct driver *driver)
{
    size_t count = driver->pending_count;
    int error = driver->batch ? zc_batch_commit(driver->batch, driver->places) : 0;

    driver->pending_count = 0;
    if (error) {
        answer(error);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        const struct pending *pending = &driver->pending[i];
        const struct zc_record *record = &pending->record;
        CHECK(driver->places[i] && driver->places[i] >> ZC_PLACE_BITS == 0);
        if (pending->is_changed) {
            error |= zc_backing_forget(driver->backing, driver->places[i], record->size);
            continue;
        }
        struct entry *entry = entry_of(driver, record->object, record->index);
        CHECK(!entry->place);
        *entry = (struct entry){true, *record, driver->places[i], pending->seed};
    }
    CHECK(!error);
    printf("ok %zu\n", count);
}

static bool moved(void *arg, const struct zc_record *record, zc_place from, zc_place to)
{
    struct driver *driver = arg;
    struct entry *entry = entry_of(driver, record->object, record->index);

    if (entry->place != from)
        return false;
    if (record->index % 8 < driver->share) {
        forget(driver, entry);
        driver->forgotten++;
        return false;
    }
    zc_backing_move(driver->backing, from, to, record->size, entry->record.live);
    entry->place = to;
    driver->moved++;
    return true;
}

static void command_clean(struct driver *driver, const struct words *words)
{
    driver->share = (unsigned)number(words->word[2]);
    driver->moved = driver->forgotten = 0;
    int64_t freed =
        zc_backing_clean(driver->backing, (uint32_t)number(words->word[1]), moved, driver);
    if (freed < 0)
        answer((int)freed);
    else
        printf("freed %" PRId64 " moved %zu forgotten %zu\n", freed, driver->moved,
               driver->forgotten);
}

static void command_read(struct driver *driver, const struct words *words)
{
    struct entry *entry = entry_named(driver, words);
    uint32_t seed;
    int error = entry->place ? read_entry(driver, entry, &seed) : -ENOENT;

    if (error)
        answer(error);
    else
        printf("%" PRIu32 " %u %u %u\n", seed, entry->record.codec, entry->record.flags,
               entry->record.live);
}

static void command_keep(struct driver *driver, const struct words *words)
{
    struct entry *entry = entry_named(driver, words);

    CHECK(entry->place);
    entry->record.live = (uint16_t)number(words->word[3]);
    answer(zc_backing_keep(driver->backing, entry->place, entry->record.size, entry->record.live));
}

static void command_what(const struct driver *driver)
{
    size_t size;
    const char *codecs = zc_backing_codecs(driver->backing, &size);

    printf("%.*s\n", (int)size, codecs);
}

static void command_stats(const struct driver *driver)
{
    struct zc_backing_stats stats;

    zc_backing_get_stats(driver->backing, &stats);
    printf("generation=%" PRIu64 " size=%" PRIu64 " segment_size=%" PRIu64 " segments=%" PRIu64
           " free_segments=%" PRIu64 " records=%" PRIu64 " live_bytes=%" PRIu64 " evicted=%" PRIu64
           " cleaned=%" PRIu64 " metadata=%" PRIu64 " discarded=%" PRIu64 " write_errors=%" PRIu64
           " read_errors=%" PRIu64 " damaged=%" PRIu64 " is_direct=%d is_failed=%d\n",
           stats.generation, stats.size, stats.segment_size, stats.segments, stats.free_segments,
           stats.records, stats.live_bytes, stats.written[ZC_WEAR_EVICTED],
           stats.written[ZC_WEAR_CLEANED], stats.written[ZC_WEAR_METADATA], stats.discarded,
           stats.write_errors, stats.read_errors, stats.damaged, stats.is_direct, stats.is_failed);
}

static void command_close(struct driver *driver, const struct words *words)
{
    int error = 0;

    if (driver->batch) {
        error = zc_batch_settle(driver->batch);
        zc_batch_destroy(driver->batch);
    }
    int other = zc_backing_close(driver->backing, strcmp(words->word[1], "clean") == 0);
    driver->backing = NULL;
    driver->batch = NULL;
    driver->pending_count = 0;
    memset(driver->entries, 0, sizeof(driver->entries));
    answer(error ? error : other);
}

static void run(struct driver *driver, struct words *words)
{
    const char *command = words->word[0];

    if (strcmp(command, "open") == 0)
        command_open(driver, words);
    else if (strcmp(command, "recover") == 0)
        command_recover(driver, words);
    else if (strcmp(command, "add") == 0)
        command_add(driver, words);
    else if (strcmp(command, "change") == 0)
        command_change(driver, words);
    else if (strcmp(command, "commit") == 0)
        command_commit(driver);
    else if (strcmp(command, "settle") == 0)
        answer(driver->batch ? zc_batch_settle(driver->batch) : 0);
    else if (strcmp(command, "forget") == 0 || strcmp(command, "late") == 0)
        answer(forget(driver, entry_named(driver, words)));
    else if (strcmp(command, "keep") == 0)
        command_keep(driver, words);
    else if (strcmp(command, "read") == 0)
        command_read(driver, words);
    else if (strcmp(command, "clean") == 0)
        command_clean(driver, words);
    else if (strcmp(command, "codecs") == 0)
        answer(zc_backing_set_codecs(driver->backing, words->word[1], strlen(words->word[1])));
    else if (strcmp(command, "what") == 0)
        command_what(driver);
    else if (strcmp(command, "stats") == 0)
        command_stats(driver);
    else if (strcmp(command, "fault") == 0)
        answer(faulty_fail(words->word[1], words->word[2], (unsigned)number(words->word[3]),
                           (unsigned)number(words->word[4])));
    else if (strcmp(command, "die") == 0)
        answer(faulty_die((unsigned)number(words->word[1]), strcmp(words->word[2], "half") == 0));
    else if (strcmp(command, "calls") == 0)
        printf("%u\n", faulty_calls());
    else if (strcmp(command, "close") == 0)
        command_close(driver, words);
    else
        printf("err EINVAL\n");
}

int main(void)
{
    static struct driver driver;
    static char line[8192];
    struct words words;

    while (fgets(line, sizeof(line), stdin)) {
        words_split(line, &words);
        if (words.count)
            run(&driver, &words);
        fflush(stdout);
    }
    if (driver.batch) {
        zc_batch_settle(driver.batch);
        zc_batch_destroy(driver.batch);
    }
    if (driver.backing)
        zc_backing_close(driver.backing, false);
    free(driver.room);
    return 0;
}
