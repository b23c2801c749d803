/* SPDX-License-Identifier: Apache-2.0 */
#include "store/idle.h"

#include <errno.h>

#include "base/base.h"

#define AHEAD_MAX 1024u /* seconds: a batch of gets takes less, and stamps with when it began */

uint32_t zc_entry_idle(struct zc_entry *entry, uint16_t now)
{
    uint16_t age = zc_entry_age(entry);
    uint32_t idle = (uint16_t)(now - age);

    if (idle <= ZC_IDLE_MAX)
        return idle;
    if (idle > UINT16_MAX - AHEAD_MAX)
        return 0; /* it was got after `now` */
    __atomic_compare_exchange_n(&entry->zpage.age, &age, (uint16_t)(now - ZC_IDLE_MAX), false,
                                __ATOMIC_RELAXED, __ATOMIC_RELAXED); /* stays so old */
    return ZC_IDLE_MAX;
}

struct walk {
    const zc_pool *pool;
    const struct zc_shard *shard;
    uint32_t seconds;
    uint16_t now;
    size_t room; /* of owners->list */
    struct zc_owners *owners;
};

static bool is_wanted(struct walk *walk, struct zc_entry *entry)
{
    struct zc_owners *owners = walk->owners;

    if (walk->seconds == 0)
        return !zc_entry_is_written(entry);
    if (!zc_entry_has_zpage(entry))
        return false;
    uint32_t idle = zc_entry_idle(entry, walk->now);
    if (idle >= walk->seconds)
        return true;
    owners->is_all = false;
    owners->oldest = owners->oldest > idle ? owners->oldest : idle;
    return false;
}

static bool visit(void *arg, uint32_t number, struct zc_entry *entry)
{
    struct walk *walk = arg;
    struct zc_owners *owners = walk->owners;
    uint32_t high = number << ZC_SHARD_BITS | (uint32_t)(walk->shard - walk->pool->shards);

    if (!is_wanted(walk, entry))
        return true;
    if (walk->room && owners->count == walk->room)
        return false;
    if (walk->room)
        owners->list[owners->count] = (uint64_t)high << 32 | entry->index;
    owners->count++;
    return true;
}

static void walk_shard(struct walk *walk, struct zc_shard *shard)
{
    walk->owners->count = 0;
    zc_shard_share(shard);
    zc_index_walk(&shard->index, visit, walk);
    zc_shard_unlock(shard);
}

int zc_owners_list(zc_pool *pool, struct zc_shard *shard, uint32_t seconds, struct zc_owners *out)
{
    struct walk walk = {
        .pool = pool,
        .shard = shard,
        .seconds = seconds,
        .now = zc_store_now(pool->store),
        .owners = out,
    };

    *out = (struct zc_owners){.is_all = true};
    walk_shard(&walk, shard); /* counts them */
    if (out->count == 0)
        return 0;
    out->list = malloc(out->count * sizeof(*out->list));
    if (!out->list)
        return -ENOMEM;
    walk.room = out->count;
    walk_shard(&walk, shard);
    return 0;
}
