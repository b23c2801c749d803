/* SPDX-License-Identifier: Apache-2.0 */
#include "store/index.h"

#include <malloc.h>
#include <string.h>

#include "base/base.h"

#define LEAF_MIN 4u   /* entries */
#define LEAF_MAX 256u /* entries; a fuller leaf splits */
#define LEAF_STEP 64u /* entries a leaf of two steps or more grows by */
#define DEPTH_MAX 24u /* hash bits that choose a leaf; beyond, leaves grow */
#define MALLOC_OVERHEAD sizeof(size_t)
#define CODE_MASK ((uintptr_t)7) /* of a leaf_ref: malloc aligns to 8 bytes at least */

struct leaf {
    uint32_t count, capacity;
    uint32_t depth; /* hash bits that all its entries share */
    uint32_t unused;
    struct zc_entry entries[];
};

/* A leaf's address and a code for its capacity, by which an entry is found without a look at the
 * leaf's head: one cache miss less to wait for. */
typedef uintptr_t leaf_ref;

static const uint16_t capacities[] = {0, 8, 16, 32, 64, 128, 192, LEAF_MAX}; /* 0: any other */

struct zc_object {
    struct zc_object *next; /* in its bucket */
    uint64_t id;
    uint64_t count; /* entries */
    uint32_t depth; /* the directory has 2^depth slots */
    leaf_ref *leaves;
    leaf_ref only; /* the directory of depth 0 */
};

static void *index_alloc(struct zc_index *index, size_t size)
{
    void *p = calloc(1, size);

    if (p)
        index->bytes += malloc_usable_size(p) + MALLOC_OVERHEAD;
    return p;
}

static void index_free(struct zc_index *index, void *p)
{
    if (!p)
        return;
    index->bytes -= malloc_usable_size(p) + MALLOC_OVERHEAD;
    free(p);
}

void zc_index_init(struct zc_index *index, uint64_t secret)
{
    *index = (struct zc_index){.secret = secret};
}

static uint64_t hash(const struct zc_index *index, uint64_t key)
{
    return zc_mix64(key ^ index->secret);
}

/* The directory slot of a hash. */
static size_t slot_of(uint64_t h, uint32_t depth)
{
    return depth ? (size_t)(h >> (64 - depth)) : 0;
}

static uint32_t home(uint64_t h, uint32_t capacity)
{
    return (uint32_t)((uint64_t)(uint32_t)h * capacity >> 32);
}

/* A leaf holds at most 4/5 of its capacity, which keeps the probes short. */
static uint32_t room(uint32_t capacity)
{
    return capacity - zc_div_up(capacity, 5);
}

static uint32_t larger(uint32_t capacity)
{
    return capacity < LEAF_STEP * 2 ? capacity * 2 : capacity + LEAF_STEP;
}

/* The least that has room for `count` entries. */
static uint32_t capacity_for(uint32_t count)
{
    uint32_t capacity = LEAF_MIN;

    while (room(capacity) < count)
        capacity = larger(capacity);
    return capacity;
}

static uint32_t smaller(uint32_t capacity)
{
    return capacity > LEAF_STEP * 2 ? capacity - LEAF_STEP : capacity / 2;
}

static leaf_ref refer(struct leaf *leaf)
{
    uintptr_t code = CODE_MASK;

    while (code > 0 && capacities[code] != leaf->capacity)
        code--;
    return (uintptr_t)leaf | code;
}

static struct leaf *leaf_of(leaf_ref ref)
{
    return (struct leaf *)(ref & ~CODE_MASK);
}

static struct leaf *leaf_new(struct zc_index *index, uint32_t capacity, uint32_t depth)
{
    struct leaf *leaf = index_alloc(index, sizeof(*leaf) + capacity * sizeof(struct zc_entry));
    if (!leaf)
        return NULL;

    leaf->capacity = capacity;
    leaf->depth = depth;
    return leaf;
}

static struct zc_entry *leaf_find(struct leaf *leaf, uint64_t h, uint32_t i)
{
    uint32_t at = home(h, leaf->capacity);

    while (leaf->entries[at].kind != ZC_ENTRY_EMPTY) {
        if (leaf->entries[at].index == i)
            return &leaf->entries[at];
        if (++at == leaf->capacity)
            at = 0;
    }
    return NULL;
}

static struct zc_entry *leaf_add(struct leaf *leaf, uint64_t h, uint32_t i)
{
    uint32_t at = home(h, leaf->capacity);

    ZC_ASSERT(leaf->count < leaf->capacity - 1);
    while (leaf->entries[at].kind != ZC_ENTRY_EMPTY) {
        if (++at == leaf->capacity)
            at = 0;
    }
    leaf->entries[at].index = i;
    leaf->count++;
    return &leaf->entries[at];
}

/* Takes an entry out and moves those behind it up, so that no probe meets a hole. */
static void leaf_del(const struct zc_index *index, struct leaf *leaf, struct zc_entry *entry)
{
    uint32_t hole = (uint32_t)(entry - leaf->entries), at = hole;

    for (;;) {
        if (++at == leaf->capacity)
            at = 0;
        if (leaf->entries[at].kind == ZC_ENTRY_EMPTY)
            break;
        uint32_t want = home(hash(index, leaf->entries[at].index), leaf->capacity);
        uint32_t from_want = at >= want ? at - want : at + leaf->capacity - want;
        uint32_t from_hole = at >= hole ? at - hole : at + leaf->capacity - hole;
        if (from_want < from_hole)
            continue;
        leaf->entries[hole] = leaf->entries[at];
        hole = at;
    }
    leaf->entries[hole] = (struct zc_entry){0};
    leaf->count--;
}

static void leaf_copy(const struct zc_index *index, struct leaf *to, const struct leaf *from)
{
    for (uint32_t at = 0; at < from->capacity; at++) {
        const struct zc_entry *entry = &from->entries[at];
        if (entry->kind != ZC_ENTRY_EMPTY)
            *leaf_add(to, hash(index, entry->index), entry->index) = *entry;
    }
}

static struct leaf *leaf_at(const struct zc_object *object, uint64_t h)
{
    return leaf_of(object->leaves[slot_of(h, object->depth)]);
}

/* Points the object's directory slots of `old` (depth bits of h) to `leaf`. */
static void dir_set(struct zc_object *object, uint64_t h, uint32_t depth, struct leaf *leaf)
{
    size_t width = (size_t)1 << (object->depth - depth);
    size_t first = slot_of(h, depth) * width;
    leaf_ref ref = refer(leaf);

    for (size_t i = 0; i < width; i++)
        object->leaves[first + i] = ref;
}

static bool dir_double(struct zc_index *index, struct zc_object *object)
{
    size_t count = (size_t)1 << object->depth;
    leaf_ref *leaves = index_alloc(index, 2 * count * sizeof(*leaves));
    if (!leaves)
        return false;

    for (size_t i = 0; i < 2 * count; i++)
        leaves[i] = object->leaves[i / 2];
    if (object->leaves != &object->only)
        index_free(index, object->leaves);
    object->leaves = leaves;
    object->depth++;
    return true;
}

/* The same entries in a leaf of another capacity. NULL: out of memory. */
static struct leaf *leaf_resize(struct zc_index *index, struct zc_object *object, uint64_t h,
                                struct leaf *leaf, uint32_t capacity)
{
    struct leaf *other = leaf_new(index, capacity, leaf->depth);
    if (!other)
        return NULL;

    leaf_copy(index, other, leaf);
    dir_set(object, h, leaf->depth, other);
    index_free(index, leaf);
    return other;
}

/* Splits the leaf by the next bit of the hash. False: out of memory. */
static bool leaf_split(struct zc_index *index, struct zc_object *object, uint64_t h,
                       struct leaf *leaf)
{
    uint64_t bit = UINT64_C(1) << (63 - leaf->depth);
    uint32_t count[2] = {0};

    if (leaf->depth == object->depth && !dir_double(index, object))
        return false;
    for (uint32_t at = 0; at < leaf->capacity; at++) {
        if (leaf->entries[at].kind != ZC_ENTRY_EMPTY)
            count[(hash(index, leaf->entries[at].index) & bit) != 0]++;
    }

    struct leaf *half[2] = {leaf_new(index, capacity_for(count[0] + 1), leaf->depth + 1),
                            leaf_new(index, capacity_for(count[1] + 1), leaf->depth + 1)};
    if (!half[0] || !half[1]) {
        index_free(index, half[0]);
        index_free(index, half[1]);
        return false;
    }
    for (uint32_t at = 0; at < leaf->capacity; at++) {
        const struct zc_entry *entry = &leaf->entries[at];
        if (entry->kind == ZC_ENTRY_EMPTY)
            continue;
        uint64_t its = hash(index, entry->index);
        *leaf_add(half[(its & bit) != 0], its, entry->index) = *entry;
    }
    dir_set(object, h & ~bit, leaf->depth + 1, half[0]);
    dir_set(object, h | bit, leaf->depth + 1, half[1]);
    index_free(index, leaf);
    return true;
}

/* Merges the leaf with its buddy where both together are small. */
static void leaf_merge(struct zc_index *index, struct zc_object *object, uint64_t h,
                       struct leaf *leaf)
{
    if (leaf->depth == 0)
        return;

    uint64_t bit = UINT64_C(1) << (64 - leaf->depth);
    struct leaf *buddy = leaf_at(object, h ^ bit);
    if (buddy->depth != leaf->depth || leaf->count + buddy->count > LEAF_MAX / 4)
        return;

    struct leaf *both = leaf_new(index, LEAF_MAX / 2, leaf->depth - 1);
    if (!both)
        return;
    leaf_copy(index, both, leaf);
    leaf_copy(index, both, buddy);
    dir_set(object, h, both->depth, both);
    index_free(index, leaf);
    index_free(index, buddy);
}

static struct zc_object **bucket_of(const struct zc_index *index, uint64_t id)
{
    return &index->buckets[hash(index, id) & (index->bucket_count - 1)];
}

/* Where the object's address stands; *result is NULL where there is none. */
static struct zc_object **object_find(const struct zc_index *index, uint64_t id)
{
    struct zc_object **at = bucket_of(index, id);

    while (*at && (*at)->id != id)
        at = &(*at)->next;
    return at;
}

/* Twice as many buckets; where there is no memory, the chains just grow. */
static void buckets_grow(struct zc_index *index)
{
    size_t count = index->bucket_count ? 2 * index->bucket_count : 8;
    struct zc_object **buckets = index_alloc(index, count * sizeof(*buckets)),
                     **old = index->buckets;
    if (!buckets)
        return;

    size_t old_count = index->bucket_count;
    index->buckets = buckets;
    index->bucket_count = count;
    for (size_t i = 0; i < old_count; i++) {
        for (struct zc_object *object = old[i], *next; object; object = next) {
            next = object->next;
            struct zc_object **at = bucket_of(index, object->id);
            object->next = *at;
            *at = object;
        }
    }
    index_free(index, old);
}

static struct zc_object *object_new(struct zc_index *index, uint64_t id)
{
    if (index->object_count >= index->bucket_count)
        buckets_grow(index);
    if (!index->buckets)
        return NULL;

    struct zc_object *object = index_alloc(index, sizeof(*object));
    if (!object)
        return NULL;
    struct leaf *only = leaf_new(index, LEAF_MIN, 0);
    if (!only) {
        index_free(index, object);
        return NULL;
    }
    object->only = refer(only);
    object->id = id;
    object->leaves = &object->only;

    struct zc_object **at = bucket_of(index, id);
    object->next = *at;
    *at = object;
    index->object_count++;
    return object;
}

/* Unlinks and frees the object; the last one takes the buckets along. */
static void object_free(struct zc_index *index, struct zc_object **at)
{
    struct zc_object *object = *at;
    size_t count = (size_t)1 << object->depth;

    *at = object->next;
    for (size_t i = 0; i < count;) {
        struct leaf *leaf = leaf_of(object->leaves[i]);
        i += (size_t)1 << (object->depth - leaf->depth);
        index_free(index, leaf);
    }
    if (object->leaves != &object->only)
        index_free(index, object->leaves);
    index_free(index, object);
    if (--index->object_count == 0) {
        index_free(index, index->buckets);
        index->buckets = NULL;
        index->bucket_count = 0;
    }
}

struct zc_entry *zc_index_find(const struct zc_index *index, uint64_t id, uint32_t i)
{
    struct zc_object *object = index->bucket_count ? *object_find(index, id) : NULL;
    if (!object)
        return NULL;

    uint64_t h = hash(index, i);
    return leaf_find(leaf_at(object, h), h, i);
}

void zc_index_prefetch_leaf(const struct zc_index *index, uint64_t id, uint32_t i)
{
    const struct zc_object *object = index->bucket_count ? *object_find(index, id) : NULL;

    if (object)
        __builtin_prefetch(&object->leaves[slot_of(hash(index, i), object->depth)]);
}

void zc_index_prefetch_entry(const struct zc_index *index, uint64_t id, uint32_t i)
{
    const struct zc_object *object = index->bucket_count ? *object_find(index, id) : NULL;
    if (!object)
        return;

    uint64_t h = hash(index, i);
    leaf_ref ref = object->leaves[slot_of(h, object->depth)];
    const struct leaf *leaf = leaf_of(ref);
    uint32_t capacity = capacities[ref & CODE_MASK];
    __builtin_prefetch(leaf);
    if (capacity)
        __builtin_prefetch(&leaf->entries[home(h, capacity)]);
}

struct zc_entry *zc_index_insert(struct zc_index *index, uint64_t id, uint32_t i)
{
    struct zc_object *object = index->bucket_count ? *object_find(index, id) : NULL;
    if (!object && !(object = object_new(index, id)))
        return NULL;

    uint64_t h = hash(index, i);
    for (;;) {
        struct leaf *leaf = leaf_at(object, h);
        if (leaf->count < room(leaf->capacity)) {
            object->count++;
            return leaf_add(leaf, h, i);
        }

        bool made_room = leaf->capacity < LEAF_MAX || leaf->depth >= DEPTH_MAX
                             ? leaf_resize(index, object, h, leaf, larger(leaf->capacity)) != NULL
                             : leaf_split(index, object, h, leaf);
        if (!made_room) {
            if (object->count == 0)
                object_free(index, object_find(index, id));
            return NULL;
        }
    }
}

void zc_index_remove(struct zc_index *index, uint64_t id, uint32_t i)
{
    struct zc_object **at = object_find(index, id), *object = *at;
    uint64_t h = hash(index, i);
    struct leaf *leaf = leaf_at(object, h);

    leaf_del(index, leaf, leaf_find(leaf, h, i));
    if (--object->count == 0) {
        object_free(index, at);
        return;
    }
    if (leaf->capacity > LEAF_MIN && leaf->count < leaf->capacity / 4)
        leaf_resize(index, object, h, leaf, smaller(leaf->capacity));
    leaf_merge(index, object, h, leaf_at(object, h));
}

static size_t object_drop(struct zc_index *index, struct zc_object **at, zc_index_drop *drop,
                          void *arg)
{
    struct zc_object *object = *at;
    size_t dropped = object->count, count = (size_t)1 << object->depth;

    for (size_t i = 0; i < count;) {
        struct leaf *leaf = leaf_of(object->leaves[i]);
        for (uint32_t e = 0; e < leaf->capacity; e++) {
            if (leaf->entries[e].kind != ZC_ENTRY_EMPTY)
                drop(arg, &leaf->entries[e]);
        }
        i += (size_t)1 << (object->depth - leaf->depth);
    }
    object_free(index, at);
    return dropped;
}

size_t zc_index_remove_object(struct zc_index *index, uint64_t id, zc_index_drop *drop, void *arg)
{
    if (!index->bucket_count)
        return 0;

    struct zc_object **at = object_find(index, id);
    return *at ? object_drop(index, at, drop, arg) : 0;
}

size_t zc_index_clear(struct zc_index *index, zc_index_drop *drop, void *arg)
{
    size_t dropped = 0;

    for (size_t i = 0; i < index->bucket_count; i++) {
        while (index->bucket_count && index->buckets[i])
            dropped += object_drop(index, &index->buckets[i], drop, arg);
    }
    return dropped;
}
