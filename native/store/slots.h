/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the codec of a record in a backing store means. A pool's numbers are its own and go with it, so
 * records name slots, and what a slot stands for is text in the store: a line "SLOT SPEC" each, and the
 * hash of the dictionary where there is one, whose number means nothing elsewhere.
 *
 * A pool has no more codecs than there are slots, and a slot is used again when its codec has gone from the
 * pool: so there always is one. Used by one thread at a time.
 */
#ifndef ZC_STORE_SLOTS_H
#define ZC_STORE_SLOTS_H

#include "backing/backing.h"
#include "base/node.h"
#include "store/codecs.h"

#define ZC_SLOT_SPEC_MAX 63u /* bytes */

struct zc_slots {
    struct {
        uint64_t serial;                 /* of the pool's codec; 0: of none yet */
        char spec[ZC_SLOT_SPEC_MAX + 1]; /* with the hash; "": never used */
    } at[ZC_POOL_CODECS];
};

/* A slot for each codec that the pool has. 0, or -errno: they could not be written, nothing changed. */
int zc_slots_update(struct zc_slots *slots, zc_pool *pool, struct zc_backing *store);
/* The slot of a codec that is used by a page whose shard is locked. ZC_POOL_CODECS: it has none yet. */
unsigned zc_slots_find(const struct zc_slots *slots, const zc_pool *pool, unsigned number);

/* Reads what the store has. -EUCLEAN: it makes no sense. */
int zc_slots_read(struct zc_slots *slots, struct zc_backing *store);
/* Has the pool hold the codec of a slot, for records of so many pages, which all of a slot have, see zc_codecs_hold(). Also -EUCLEAN: there is no such slot; -ENOENT: its
 * dictionary is not loaded. */
int zc_slots_hold(struct zc_slots *slots, unsigned slot, unsigned pages, zc_pool *pool,
                  unsigned *number, struct zc_text *why);

#endif
