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

uint64_t zc_idle_next(const struct zc_idle *idle, const zc_store *store, uint32_t rest)
{
    if (idle->is_all)
        return UINT64_MAX;
    if (idle->seconds > idle->oldest)
        rest = (uint32_t)zc_max(rest, idle->seconds - idle->oldest);
    return zc_store_ns(store) + (rest + 1) * ZC_SECOND_NS; /* ages are of whole seconds */
}

struct walk {
    const zc_pool *pool;
    const struct zc_shard *shard;
    zc_owner_wanted *wanted;
    void *arg;
    size_t most;
    struct zc_owners *owners;
};

static bool visit(void *arg, uint32_t number, struct zc_entry *entry)
{
    struct walk *walk = arg;
    struct zc_owners *owners = walk->owners;
    uint32_t high = number << ZC_SHARD_BITS | (uint32_t)(walk->shard - walk->pool->shards);

    if (!walk->wanted(walk->arg, walk->shard, entry))
        return true;
    owners->is_all = owners->count < walk->most;
    if (!owners->is_all)
        return false;
    if (owners->list)
        owners->list[owners->count] = (uint64_t)high << 32 | entry->index;
    owners->count++;
    return true;
}

static void walk_shard(struct walk *walk, struct zc_shard *shard)
{
    walk->owners->count = 0;
    walk->owners->is_all = true;
    zc_shard_share(shard);
    zc_index_walk(&shard->index, visit, walk);
    zc_shard_unlock(shard);
}

int zc_owners_list(zc_pool *pool, struct zc_shard *shard, size_t most, zc_owner_wanted *wanted,
                   void *arg, struct zc_owners *out)
{
    struct walk walk = {
        .pool = pool, .shard = shard, .wanted = wanted, .arg = arg, .most = most, .owners = out};

    *out = (struct zc_owners){0};
    walk_shard(&walk, shard); /* counts them */
    if (out->count == 0)
        return 0;
    out->list = malloc(out->count * sizeof(*out->list));
    if (!out->list)
        return -ENOMEM;
    walk.most = out->count;
    walk_shard(&walk, shard);
    return 0;
}
