/* SPDX-License-Identifier: Apache-2.0 */
#include "alloc/coldest.h"

#include "base/base.h"
#include "frame/frame.h"

#define SHARE 64u /* of the records, this part is found in a scan */
#define ROOM_MIN 32u
#define ROOM_MAX 16384u
#define MIDDLE 0x80000000u /* the age of the first record offered: others may be older or younger */

void zc_coldest_init(struct zc_coldest *coldest, struct zc_frames *frames)
{
    *coldest = (struct zc_coldest){.frames = frames};
    pthread_mutex_init(&coldest->lock, NULL);
}

static void set_room(struct zc_coldest *coldest, uint32_t room)
{
    size_t before = zc_coldest_bytes(coldest);

    free(coldest->found);
    coldest->found = room > 0 ? malloc(room * sizeof(*coldest->found)) : NULL;
    atomic_store_explicit(&coldest->room, coldest->found ? room : 0, memory_order_relaxed);
    zc_frames_charge(coldest->frames, (ptrdiff_t)(zc_coldest_bytes(coldest) - before));
}

void zc_coldest_destroy(struct zc_coldest *coldest)
{
    set_room(coldest, 0);
    pthread_mutex_destroy(&coldest->lock);
}

/* Puts an item where found[at] was, in a heap with the largest, the youngest, on top. */
static void sift_down(uint64_t *found, uint32_t count, uint32_t at, uint64_t item)
{
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= count)
            break;
        if (child + 1 < count && found[child + 1] > found[child])
            child++;
        if (found[child] <= item)
            break;
        found[at] = found[child];
        at = child;
    }
    found[at] = item;
}

static void make_heap(uint64_t *found, uint32_t count)
{
    for (uint32_t at = count / 2; at-- > 0;)
        sift_down(found, count, at, found[at]);
}

static void sort_heap(uint64_t *found, uint32_t count)
{
    while (count > 1) {
        uint64_t last = found[--count];
        found[count] = found[0];
        sift_down(found, count, 0, last);
    }
}

void zc_coldest_keep(struct zc_coldest *coldest, uint32_t number, uint32_t stamp)
{
    if (coldest->count == 0)
        coldest->origin = stamp - MIDDLE;

    uint64_t item = (uint64_t)(stamp - coldest->origin) << 32 | number;
    if (coldest->count == coldest->room)
        sift_down(coldest->found, coldest->count, 0, item);
    else
        coldest->found[coldest->count++] = item;
    if (coldest->count < coldest->room)
        return;
    if (coldest->limit == UINT64_MAX)
        make_heap(coldest->found, coldest->count);
    coldest->limit = coldest->found[0];
}

/* False: there is nothing to be found, or no memory. */
static bool scan(struct zc_coldest *coldest, void *alloc, const struct zc_coldest_ops *ops)
{
    size_t room = zc_max(ROOM_MIN, zc_min(ops->count(alloc) / SHARE, ROOM_MAX));

    coldest->next = coldest->count = 0;
    coldest->limit = UINT64_MAX;
    if (room != coldest->room)
        set_room(coldest, (uint32_t)room);
    if (!coldest->found)
        return false;
    for (uint32_t from = 1; from;)
        from = ops->scan(alloc, coldest, from);
    if (coldest->count < coldest->room)
        make_heap(coldest->found, coldest->count);
    sort_heap(coldest->found, coldest->count);
    return coldest->count > 0;
}

/* Isolates the next one found. One that is younger by now, but still older than others that were
 * found, gets its place among these. Returns its number; 0: it was not to be isolated. */
static uint32_t isolate_next(struct zc_coldest *coldest, void *alloc,
                             const struct zc_coldest_ops *ops)
{
    uint64_t *found = coldest->found, item = found[coldest->next++];
    uint32_t number = (uint32_t)item, before = (uint32_t)(item >> 32) + coldest->origin;
    uint32_t stamp = before, at = coldest->next;

    if (ops->isolate(alloc, number, &stamp))
        return number;
    item = (uint64_t)(stamp - coldest->origin) << 32 | number;
    if (stamp == before || item > found[coldest->count - 1])
        return 0;
    for (; at < coldest->count && found[at] < item; at++)
        found[at - 1] = found[at];
    found[at - 1] = item;
    coldest->next--;
    return 0;
}

uint32_t zc_coldest_next(struct zc_coldest *coldest, void *alloc, const struct zc_coldest_ops *ops)
{
    uint32_t number = 0;

    pthread_mutex_lock(&coldest->lock);
    do {
        while (coldest->next < coldest->count && !number)
            number = isolate_next(coldest, alloc, ops);
    } while (!number && scan(coldest, alloc, ops));
    pthread_mutex_unlock(&coldest->lock);
    return number;
}
