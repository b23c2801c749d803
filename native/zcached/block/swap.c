/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/block/swap.h"

#include <errno.h>
#include <inttypes.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/base.h"
#include "store/store.h"
#include "zcached/block/device_nodes.h"
#include "zcached/block/kernel_reserve.h"
#include "zcached/block/swaps.h"
#include "zcached/block/ublk.h"
#include "zcached/commands.h"

#define POOL "swap" /* default */
#define WHO "swap"
#define PRIORITY 100 /* where there is no other area */
#define ANY_PRIORITY (-1)
#define PAGES_MIN 10u /* the kernel takes no smaller area */
#define RESERVE_BYTES (1024u * 1024)
#define LIMIT_PERCENT 75u /* of RAM, that what is swapped out may take */

extern char **environ;

/* ---- the request ---- */

struct request {
    char pool[ZC_POOL_NAME_MAX + 1];
    char transport[8]; /* "": any */
    uint64_t size;     /* bytes */
    int priority;
};

/* "64M", "1G" or bytes. */
static bool parse_size(const char *text, uint64_t *out)
{
    return !strchr(text, '%') && zc_parse_size(text, 0, out) == 0;
}

static bool parse_priority(const char *text, int *out)
{
    char *end;
    long number = strtol(text, &end, 10);

    *out = (int)number;
    return *text >= '0' && *text <= '9' && !*end && number <= ZC_SWAP_PRIORITY_MAX;
}

static bool take_text(const char *text, char *to, size_t size)
{
    return *text && snprintf(to, size, "%s", text) < (int)size;
}

static bool take_word(struct request *request, const char *word)
{
    if (strncmp(word, "size=", 5) == 0)
        return parse_size(word + 5, &request->size);
    if (strncmp(word, "pool=", 5) == 0)
        return take_text(word + 5, request->pool, sizeof(request->pool));
    if (strncmp(word, "priority=", 9) == 0)
        return parse_priority(word + 9, &request->priority);
    if (strncmp(word, "transport=", 10) == 0)
        return take_text(word + 10, request->transport, sizeof(request->transport));
    return false;
}

static int parse(const char *value, struct request *request, struct zc_text *why)
{
    char word[96];
    int used;

    *request = (struct request){.pool = POOL, .priority = ANY_PRIORITY};
    for (; sscanf(value, "%95s%n", word, &used) == 1; value += used) {
        if (take_word(request, word))
            continue;
        zc_text_add(
            why,
            "on: '%s' is not size=SIZE, pool=NAME, priority=0..%d, transport=ublk or transport=nbd",
            word, ZC_SWAP_PRIORITY_MAX);
        return -EINVAL;
    }
    if (request->size > 0)
        return 0;
    zc_text_add(why, "on: a size is needed, such as size=512M");
    return -EINVAL;
}

/* ---- may it be? ---- */

/* The kernel fills areas of the highest priority first: another at the same or a higher one would take pages. */
static int choose_priority(struct request *request, struct zc_text *why)
{
    struct zc_swap_area areas[ZC_SWAP_AREAS_MAX];
    size_t count = zc_swaps_read(areas), highest = 0;

    for (size_t i = 1; i < count; i++) {
        if (areas[i].priority > areas[highest].priority)
            highest = i;
    }
    int above = count && areas[highest].priority >= 0 ? areas[highest].priority + 1 : 0;
    if (request->priority == ANY_PRIORITY)
        request->priority = above > PRIORITY ? above : PRIORITY;
    if (request->priority >= above && request->priority <= ZC_SWAP_PRIORITY_MAX)
        return 0;
    zc_text_add(why, "priority %d is not above that of other swap in use, which /proc/swaps lists:",
                request->priority);
    for (size_t i = 0; i < count; i++)
        zc_text_add(why, " %s of %" PRIu64 " MiB at %d;", areas[i].path, areas[i].size >> 20,
                    areas[i].priority);
    zc_text_add(why, " swapoff that, or take a higher one");
    return -EBUSY;
}

static int check_size(const struct zc_swap *swap, const struct request *request, zc_pool *pool,
                      struct zc_text *why)
{
    uint32_t page_size = zc_store_page_size(swap->store);
    uint64_t room = zc_pool_in_place_bytes(pool);

    if (request->size % page_size != 0 || request->size / page_size < PAGES_MIN ||
        request->size / page_size > UINT32_MAX) {
        zc_text_add(why, "size %" PRIu64 ": a multiple of %u, from %" PRIu64 " on, is needed",
                    request->size, page_size, (uint64_t)page_size * PAGES_MIN);
        return -EINVAL;
    }
    if (room >= request->size)
        return 0;
    zc_text_add(why,
                "size %" PRIu64 ": the backing store of pool '%s' takes %" PRIu64
                " bytes of pages; a larger one, or a smaller size, is needed",
                request->size, request->pool, room);
    return -ENOSPC;
}

static int find_pool(const struct zc_swap *swap, const struct request *request, zc_pool **out,
                     struct zc_text *why)
{
    int error = zc_find_empty_pool(swap->store, request->pool, ZC_PERSISTENT, WHO, out, why);
    if (error)
        return error;

    error = check_size(swap, request, *out, why);
    if (error)
        zc_pool_release(*out);
    return error;
}

/* ---- on ---- */

/* What the kernel has put on the device, compressed, is to fit, as it cannot be asked to take less. Where there is a
 * backing store, the limit says when pages go there. */
static void raise_limit(struct zc_swap *swap, zc_pool *pool, uint64_t size)
{
    struct zc_store_stats stats;

    zc_store_get_stats(swap->store, &stats);
    swap->limit = swap->raised = stats.limit_bytes;
    if (zc_pool_in_place_bytes(pool) != UINT64_MAX)
        return;
    uint64_t most = zc_min64(size, zc_store_ram(swap->store) / 100 * LIMIT_PERCENT);
    swap->raised = zc_max64(swap->limit, most);
    zc_store_set_limit(swap->store, swap->raised);
}

static void restore_limit(struct zc_swap *swap)
{
    struct zc_store_stats stats;

    zc_store_get_stats(swap->store, &stats);
    if (stats.limit_bytes == swap->raised) /* else somebody has set another */
        zc_store_set_limit(swap->store, swap->limit);
}

/* A put for the kernel's sake frees a page: lack of memory is no reason to refuse it. What compresses badly is
 * kept as it is, in memory or in the backing store. */
static void prepare_pool(struct zc_swap *swap, zc_pool *pool, uint64_t size)
{
    zc_pool_set_param(pool, "ignore_low_memory", "1");
    zc_pool_set_param(pool, "keep_rejected", "1");
    zc_pool_set_param(pool, "exclusive_gets", "0");
    zc_pool_claim(pool, true);
    zc_store_set_locked(swap->store, true);
    raise_limit(swap, pool, size);
    swap->reserve = zc_store_reserve(swap->store);
    zc_store_set_reserve(swap->store,
                         zc_max(swap->reserve, RESERVE_BYTES / zc_store_page_size(swap->store)));
}

/* Nobody else can fail, or swap off, what a killed daemon leaves behind. */
static void set_guard(struct zc_swap *swap, struct zc_text *refused)
{
    const char *problem = NULL;
    int error = zc_guard_start(&swap->guard, swap->path, swap->kernels, swap->log->fd);

    if (error)
        problem = strerror(-error);
    else if (swap->transport == &zc_ublk && !zc_ublk_can_be_adopted(swap->export))
        problem = "this kernel's ublk lets nobody take a device over";
    if (problem)
        zc_text_add(refused, "%sno guard, should zcached be killed: %s", refused->len ? "; " : "",
                    problem);
}

/* Of what prepare_pool() did, and the disk. */
static void give_up(struct zc_swap *swap)
{
    zc_pool_claim(swap->disk.pool, false);
    zc_store_set_locked(swap->store, false);
    zc_disk_fini(&swap->disk);
    zc_store_set_reserve(swap->store, swap->reserve);
    restore_limit(swap);
}

/* Sockets take memory for each request and answer, in the moment when it is short. With the kernel's usual reserve both
 * sides come to wait for it, and the device is lost. */
static void raise_kernels_reserve(struct zc_swap *swap)
{
    swap->kernels = swap->transport == &zc_nbd ? zc_kernel_reserve_raise() : 0;
}

/* Shows the device to the kernel, and has it swap there. */
static int put_to_use(struct zc_swap *swap, struct zc_text *refused, struct zc_text *why)
{
    struct zc_blocks blocks = zc_disk_blocks(&swap->disk);

    blocks.is_guarded = true;
    int error = swap->transport->open(&blocks, &swap->export, why);
    if (error)
        return error;

    zc_shortage_lock(); /* what that took */
    /* That holds writes back for the sake of reads: good for disks. Not every kernel has it. */
    zc_queue_set(swap->transport->name_of(swap->export), "wbt_lat_usec", 0);
    error = zc_block_node(swap->transport->name_of(swap->export), swap->path);
    if (error) {
        zc_text_add(why, "no device node: %s", strerror(-error));
        goto close;
    }
    raise_kernels_reserve(swap);
    set_guard(swap, refused);
    error = zc_areas_on(&swap->areas, &swap->disk, swap->path,
                        swap->transport->name_of(swap->export), why);
    if (!error)
        return 0;
    zc_guard_end(&swap->guard);
    zc_kernel_reserve_restore(swap->kernels);
close:
    swap->transport->close(swap->export);
    return error;
}

static int start(struct zc_swap *swap, const struct request *request, struct zc_text *why)
{
    struct zc_text refused = {0};
    uint32_t page_size = zc_store_page_size(swap->store);

    zc_areas_plan(&swap->areas, request->size, page_size, request->priority);
    int error = zc_areas_write_headers(&swap->areas, &swap->disk);
    if (error) {
        zc_text_add(why, "pool '%s' takes no page: %s", request->pool, strerror(-error));
        return error;
    }
    zc_shortage_begin(&swap->shortage, &refused);
    error = put_to_use(swap, &refused, why);
    if (error)
        zc_shortage_end(&swap->shortage);
    snprintf(swap->refused, sizeof(swap->refused), "%s", refused.len ? refused.data : "none");
    zc_text_free(&refused);
    return error;
}

static int turn_on(struct zc_swap *swap, struct request *request, struct zc_text *why)
{
    struct zc_orphan orphan;
    zc_pool *pool;

    if (swap->is_on) {
        zc_text_add(why, "swap is on already, at %s", swap->path);
        return -EBUSY;
    }
    if (zc_guard_find_orphan(&orphan)) {
        zc_text_add(why,
                    "%s is in use as swap still, and the zcached that served it was killed; swap "
                    "it off first",
                    orphan.area.path);
        return -EBUSY;
    }
    int error = zc_check_rights(WHO, why);
    if (!error)
        error = choose_priority(request, why);
    if (!error)
        error = zc_transport_find(request->transport, &swap->transport, why);
    if (!error)
        error = find_pool(swap, request, &pool, why);
    if (error)
        return error;
    error = zc_disk_init(&swap->disk, pool, zc_store_page_size(swap->store), request->size);
    if (error)
        return error;
    prepare_pool(swap, pool, request->size);
    error = start(swap, request, why);
    if (error) {
        give_up(swap);
        return error;
    }
    swap->is_on = true;
    zc_log_line(swap->log, "info",
                "swap is on: %s, %" PRIu64 " bytes, pool %s, priority %d; refused: %s", swap->path,
                request->size, request->pool, request->priority, swap->refused);
    return 0;
}

/* ---- off ---- */

int zc_swapoff(const char *path)
{
    int error = zc_swap_off(path);

    if (!error)
        return ZC_EXIT_OK;
    fprintf(stderr, "zcached: swapoff %s: %s\n", path, strerror(-error));
    return ZC_EXIT_FAILED;
}

/* By a process with no memory locked, and waits for it. */
static void swap_off(const char *path)
{
    char *const words[] = {"zcached", "swapoff", (char *)path, NULL};
    pid_t pid;

    if (posix_spawn(&pid, "/proc/self/exe", NULL, NULL, words, environ) != 0)
        return;
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

static void take_away(struct zc_swap *swap)
{
    struct zc_disk_stats stats;

    zc_disk_get_stats(&swap->disk, &stats);
    swap->transport->close(swap->export);
    zc_guard_end(&swap->guard);
    zc_kernel_reserve_restore(swap->kernels);
    zc_shortage_end(&swap->shortage);
    give_up(swap);
    swap->is_on = false;
    zc_log_line(swap->log, "info",
                "swap is off: %s; pages read %" PRIu64 ", written %" PRIu64 ", errors %" PRIu64,
                swap->path, stats.reads, stats.writes, stats.read_errors + stats.write_errors);
}

int zc_swap_end(struct zc_swap *swap)
{
    struct zc_swap_area area;

    if (!swap->is_on)
        return 0;
    if (zc_swaps_find(swap->path, &area))
        swap_off(swap->path);
    if (zc_swaps_find(swap->path, &area)) {
        zc_log_line(swap->log, "error",
                    "swap stays on: %" PRIu64 " bytes are in %s and memory has no room", area.used,
                    swap->path);
        return -EBUSY;
    }
    take_away(swap);
    return 0;
}

/* ---- nodes ---- */

static int check_on(void *object, const struct zc_node *node, const char *value,
                    struct zc_text *why)
{
    struct request request;

    (void)object;
    (void)node;
    return parse(value, &request, why);
}

static int store_on(void *object, const struct zc_node *node, const char *value,
                    struct zc_text *why)
{
    struct request request;
    int error = parse(value, &request, why);

    (void)node;
    return error ? error : turn_on(object, &request, why);
}

static int store_off(void *object, const struct zc_node *node, const char *value,
                     struct zc_text *why)
{
    struct zc_swap *swap = object;
    struct zc_swap_area area;

    (void)node;
    (void)value;
    if (!swap->is_on) {
        zc_text_add(why, "swap is not on");
        return -ENOENT;
    }
    if (zc_swaps_find(swap->path, &area)) {
        zc_text_add(why, "%s is in use as swap, %" PRIu64 " bytes; zcached swapoff %s first",
                    swap->path, area.used, swap->path);
        return -EBUSY;
    }
    take_away(swap);
    return 0;
}

enum {
    TEXT_DEVICE,
    TEXT_TRANSPORT,
    TEXT_POOL,
    TEXT_REFUSED,
    TEXT_ORPHAN,
    NUMBER_SIZE,
    NUMBER_USED,
    NUMBER_PRIORITY,
    NUMBER_READS,
    NUMBER_WRITES,
    NUMBER_DISCARDS,
    NUMBER_READ_ERRORS,
    NUMBER_WRITE_ERRORS,
    NUMBER_HELD,
    NUMBER_STALE,
    NUMBER_LOST
};

static int show_text(void *object, const struct zc_node *node, struct zc_text *out)
{
    const struct zc_swap *swap = object;
    const char *text = "none";
    struct zc_orphan orphan;

    if (node->arg == TEXT_ORPHAN)
        text = zc_guard_find_orphan(&orphan) ? orphan.area.path : "none";
    else if (!swap->is_on)
        ;
    else if (node->arg == TEXT_DEVICE)
        text = swap->path;
    else if (node->arg == TEXT_TRANSPORT)
        text = swap->transport->name;
    else if (node->arg == TEXT_POOL)
        text = zc_pool_name(swap->disk.pool);
    else
        text = swap->refused;
    zc_text_add(out, "%s", text);
    return 0;
}

/* Held, though no page of memory is there any more: the kernel discards whole clusters only. */
static uint64_t stale(const struct zc_swap *swap, uint64_t held, uint64_t used)
{
    uint64_t needed = zc_div_up(used, swap->disk.page_size) + swap->areas.count; /* headers */

    return held > needed ? held - needed : 0;
}

static uint64_t number_of(const struct zc_swap *swap, uintptr_t which)
{
    struct zc_swap_area area = {0};
    struct zc_disk_stats stats;
    struct zc_orphan orphan;

    if (which == NUMBER_LOST)
        return zc_guard_find_orphan(&orphan) ? orphan.lost : 0;
    if (!swap->is_on)
        return 0;
    zc_disk_get_stats(&swap->disk, &stats);
    zc_swaps_find(swap->path, &area);
    switch (which) {
    case NUMBER_SIZE:
        return swap->disk.size;
    case NUMBER_USED:
        return area.used;
    case NUMBER_PRIORITY:
        return (uint64_t)swap->areas.priority;
    case NUMBER_READS:
        return stats.reads;
    case NUMBER_WRITES:
        return stats.writes;
    case NUMBER_DISCARDS:
        return stats.discards;
    case NUMBER_READ_ERRORS:
        return stats.read_errors;
    case NUMBER_WRITE_ERRORS:
        return stats.write_errors;
    case NUMBER_HELD:
        return stats.held;
    default:
        return stale(swap, stats.held, area.used);
    }
}

static int show_number(void *object, const struct zc_node *node, struct zc_text *out)
{
    zc_text_add(out, "%" PRIu64, number_of(object, node->arg));
    return 0;
}

static const struct zc_node nodes[] = {
    ACTION("on", "size=SIZE [pool=NAME] [priority=0..32767] [transport=ublk|nbd]", check_on,
           store_on, "shows the kernel a block device over a pool and has it swap there"),
    ACTION("off", "1", zc_check_off, store_off,
           "takes the device away, once the kernel does not swap there any more"),
    TEXT("device", TEXT_DEVICE, "the device that the kernel swaps to, or none"),
    TEXT("transport", TEXT_TRANSPORT, "how the kernel reaches it: ublk or nbd"),
    TEXT("pool", TEXT_POOL, "the pool behind it"),
    TEXT("refused", TEXT_REFUSED,
         "what the kernel did not grant for the moment of shortage, or none"),
    NUMBER("size", ZC_NODE_BYTES, "bytes", NUMBER_SIZE, "size of the device"),
    NUMBER("used", ZC_NODE_BYTES, "bytes", NUMBER_USED, "of that, what the kernel has put there"),
    NUMBER("priority", ZC_NODE_UINT, "", NUMBER_PRIORITY,
           "as /proc/swaps shows it, of the area that is used last"),
    NUMBER("reads", ZC_NODE_UINT, "pages", NUMBER_READS, "pages that the kernel read"),
    NUMBER("writes", ZC_NODE_UINT, "pages", NUMBER_WRITES, "pages that the kernel wrote"),
    NUMBER("discards", ZC_NODE_UINT, "pages", NUMBER_DISCARDS,
           "pages that the kernel said it needs no more"),
    NUMBER("read_errors", ZC_NODE_UINT, "pages", NUMBER_READ_ERRORS, "of reads: EIO"),
    NUMBER("write_errors", ZC_NODE_UINT, "pages", NUMBER_WRITE_ERRORS,
           "of writes: EIO, as the pool refused the page; the kernel keeps it in memory"),
    NUMBER("held", ZC_NODE_UINT, "pages", NUMBER_HELD, "pages that were written and not discarded"),
    NUMBER("stale", ZC_NODE_UINT, "pages", NUMBER_STALE,
           "of held: estimated not to be needed, which the kernel did not say"),
    TEXT("orphan", TEXT_ORPHAN,
         "a device in use still whose zcached was killed: to be swapped off; or none"),
    NUMBER("lost", ZC_NODE_UINT, "pages", NUMBER_LOST,
           "pages on the orphan when that was killed, at most: who needs one gets SIGBUS"),
    {0},
};

const struct zc_node zc_swap_nodes[] = {
    {.name = "swap",
     .type = ZC_NODE_DIR,
     .unit = "",
     .range = "",
     .deflt = "",
     .meaning = "the swap device",
     .children = nodes},
    {0},
};
