/* SPDX-License-Identifier: Apache-2.0 */
#include "store/index.h"

#include <malloc.h>
#include <string.h>

#include "base/base.h"

#define LEAF_MIN 4u   /* entries */
#define LEAF_MAX 256u /* entries; a fuller leaf splits */
#define LEAF_STEP 32u /* entries a leaf of two steps or more grows by */
#define DEPTH_MAX 24u /* hash bits that choose a leaf; beyond, leaves grow */
#define MALLOC_OVERHEAD sizeof(size_t)
#define CODE_MASK ((uintptr_t)7) /* of a leaf_ref: leaves are aligned to 8 bytes at least */

struct leaf {
    uint32_t count, capacity;
    uint32_t depth; /* hash bits that all its entries share */
    uint32_t unused;
    struct zc_entry entries[];
};

/* A leaf's address and a code for its capacity, by which an entry is found without a look at the
 * leaf's head: one cache miss less to wait for. */
typedef uintptr_t leaf_ref;

static const uint16_t capacities[] = {0, 64, 96, 128, 160, 192, 224, LEAF_MAX}; /* 0: any other */

struct object {
    uint32_t next;  /* in its bucket; of a number not in use, the table's */
    uint32_t depth; /* the directory has 2^depth slots */
    uint64_t id;
    uint64_t count; /* entries; 0: not in use */
    leaf_ref *leaves;
    leaf_ref only; /* the directory of depth 0 */
};

static void *index_alloc(struct zc_index *index, size_t size)
{
    void *p = calloc(1, size);

    if (p)
        index->heap += malloc_usable_size(p) + MALLOC_OVERHEAD;
    return p;
}

static void index_free(struct zc_index *index, void *p)
{
    if (!p)
        return;
    index->heap -= malloc_usable_size(p) + MALLOC_OVERHEAD;
    free(p);
}

static void count_bytes(struct zc_index *index)
{
    index->bytes = index->heap + index->pieces + index->objects.bytes;
}

void zc_index_init(struct zc_index *index, struct zc_frames *frames, uint64_t secret)
{
    *index = (struct zc_index){.frames = frames, .secret = secret};
    zc_table_init(&index->objects, sizeof(struct object));
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

/* A leaf holds at most 7/8 of its capacity, which keeps the probes short. */
static uint32_t room(uint32_t capacity)
{
    return capacity - zc_div_up(capacity, 8);
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

static size_t leaf_size(uint32_t capacity)
{
    return sizeof(struct leaf) + capacity * sizeof(struct zc_entry);
}

/* 4, 8, 16 and 32 entries, then in steps. */
static unsigned leaf_kind(uint32_t capacity)
{
    return capacity < LEAF_STEP * 2 ? (unsigned)__builtin_ctz(capacity) - 2
                                    : capacity / LEAF_STEP + 2;
}

static struct leaf *leaf_new(struct zc_index *index, uint32_t capacity, uint32_t depth)
{
    size_t size = leaf_size(capacity);
    struct leaf *leaf = capacity > LEAF_MAX
                            ? index_alloc(index, size)
                            : zc_piece_get(index->frames, leaf_kind(capacity), size);
    if (!leaf)
        return NULL;

    index->pieces += capacity > LEAF_MAX ? 0 : size;
    leaf->capacity = capacity;
    leaf->depth = depth;
    return leaf;
}

static void leaf_free(struct zc_index *index, struct leaf *leaf)
{
    if (!leaf)
        return;
    if (leaf->capacity > LEAF_MAX) {
        index_free(index, leaf);
        return;
    }
    index->pieces -= leaf_size(leaf->capacity);
    zc_piece_put(index->frames, leaf);
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

static struct leaf *leaf_at(const struct object *object, uint64_t h)
{
    return leaf_of(object->leaves[slot_of(h, object->depth)]);
}

/* Points the object's directory slots of `old` (depth bits of h) to `leaf`. */
static void dir_set(struct object *object, uint64_t h, uint32_t depth, struct leaf *leaf)
{
    size_t width = (size_t)1 << (object->depth - depth);
    size_t first = slot_of(h, depth) * width;
    leaf_ref ref = refer(leaf);

    for (size_t i = 0; i < width; i++)
        object->leaves[first + i] = ref;
}

static bool dir_double(struct zc_index *index, struct object *object)
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
static struct leaf *leaf_resize(struct zc_index *index, struct object *object, uint64_t h,
                                struct leaf *leaf, uint32_t capacity)
{
    struct leaf *other = leaf_new(index, capacity, leaf->depth);
    if (!other)
        return NULL;

    leaf_copy(index, other, leaf);
    dir_set(object, h, leaf->depth, other);
    leaf_free(index, leaf);
    return other;
}

/* Splits the leaf by the next bit of the hash. False: out of memory. */
static bool leaf_split(struct zc_index *index, struct object *object, uint64_t h, struct leaf *leaf)
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
        leaf_free(index, half[0]);
        leaf_free(index, half[1]);
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
    leaf_free(index, leaf);
    return true;
}

/* Merges the leaf with its buddy where both together are small. */
static void leaf_merge(struct zc_index *index, struct object *object, uint64_t h, struct leaf *leaf)
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
    leaf_free(index, leaf);
    leaf_free(index, buddy);
}

static uint32_t *bucket_of(const struct zc_index *index, uint64_t id)
{
    return &index->buckets[hash(index, id) & (index->bucket_count - 1)];
}

static struct object *object_at(const struct zc_index *index, uint32_t number)
{
    return zc_table_at(&index->objects, number);
}

/* Where the object's number stands, or 0 where there is none. There must be buckets. */
static uint32_t *object_place(const struct zc_index *index, uint64_t id)
{
    uint32_t *at = bucket_of(index, id);

    while (*at && object_at(index, *at)->id != id)
        at = &object_at(index, *at)->next;
    return at;
}

/* 0: not there. */
static uint32_t object_number(const struct zc_index *index, uint64_t id)
{
    return index->bucket_count ? *object_place(index, id) : 0;
}

static struct object *object_find(const struct zc_index *index, uint64_t id)
{
    uint32_t number = object_number(index, id);

    return number ? object_at(index, number) : NULL;
}

/* Twice as many buckets; where there is no memory, the chains just grow. */
static void buckets_grow(struct zc_index *index)
{
    size_t count = index->bucket_count ? 2 * index->bucket_count : 8;
    uint32_t *buckets = index_alloc(index, count * sizeof(*buckets)), *old = index->buckets;
    if (!buckets)
        return;

    size_t old_count = index->bucket_count;
    index->buckets = buckets;
    index->bucket_count = count;
    for (size_t i = 0; i < old_count; i++) {
        for (uint32_t number = old[i], next; number; number = next) {
            struct object *object = object_at(index, number);
            next = object->next;
            uint32_t *at = bucket_of(index, object->id);
            object->next = *at;
            *at = number;
        }
    }
    index_free(index, old);
}

static struct object *object_new(struct zc_index *index, uint64_t id)
{
    if (index->objects.used >= index->bucket_count)
        buckets_grow(index);
    if (!index->buckets)
        return NULL;

    struct leaf *only = leaf_new(index, LEAF_MIN, 0);
    if (!only)
        return NULL;
    uint32_t number = zc_table_add(&index->objects);
    if (!number) {
        leaf_free(index, only);
        return NULL;
    }

    struct object *object = object_at(index, number);
    uint32_t *at = bucket_of(index, id);
    object->only = refer(only);
    object->id = id;
    object->leaves = &object->only;
    object->next = *at;
    *at = number;
    return object;
}

/* Unlinks and frees the object; the last one takes the buckets along. */
static void object_free(struct zc_index *index, uint32_t *at)
{
    uint32_t number = *at;
    struct object *object = object_at(index, number);
    size_t count = (size_t)1 << object->depth;

    *at = object->next;
    for (size_t i = 0; i < count;) {
        struct leaf *leaf = leaf_of(object->leaves[i]);
        i += (size_t)1 << (object->depth - leaf->depth);
        leaf_free(index, leaf);
    }
    if (object->leaves != &object->only)
        index_free(index, object->leaves);
    object->count = 0;
    zc_table_remove(&index->objects, number);
    if (index->objects.used == 0) {
        index_free(index, index->buckets);
        index->buckets = NULL;
        index->bucket_count = 0;
    }
}

struct zc_entry *zc_index_find(const struct zc_index *index, uint64_t id, uint32_t i)
{
    struct object *object = object_find(index, id);
    if (!object)
        return NULL;

    uint64_t h = hash(index, i);
    return leaf_find(leaf_at(object, h), h, i);
}

uint32_t zc_index_number(const struct zc_index *index, uint64_t id)
{
    return object_number(index, id);
}

/* NULL: there is none now. */
static struct object *object_by_number(const struct zc_index *index, uint32_t number)
{
    if (number == 0 || number > index->objects.top)
        return NULL;

    struct object *object = object_at(index, number);
    return object->count > 0 ? object : NULL;
}

struct zc_entry *zc_index_find_by_number(const struct zc_index *index, uint32_t number, uint32_t i,
                                         uint64_t *id)
{
    struct object *object = object_by_number(index, number);
    if (!object)
        return NULL;

    uint64_t h = hash(index, i);
    *id = object->id;
    return leaf_find(leaf_at(object, h), h, i);
}

void zc_index_prefetch_leaf(const struct zc_index *index, uint64_t id, uint32_t i)
{
    const struct object *object = object_find(index, id);

    if (object)
        __builtin_prefetch(&object->leaves[slot_of(hash(index, i), object->depth)]);
}

static void prefetch_entry(const struct zc_index *index, const struct object *object, uint32_t i)
{
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

void zc_index_prefetch_entry(const struct zc_index *index, uint64_t id, uint32_t i)
{
    prefetch_entry(index, object_find(index, id), i);
}

void zc_index_prefetch_by_number(const struct zc_index *index, uint32_t number, uint32_t i)
{
    prefetch_entry(index, object_by_number(index, number), i);
}

static struct zc_entry *insert(struct zc_index *index, uint64_t id, uint32_t i)
{
    struct object *object = object_find(index, id);
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
                object_free(index, object_place(index, id));
            return NULL;
        }
    }
}

struct zc_entry *zc_index_insert(struct zc_index *index, uint64_t id, uint32_t i)
{
    struct zc_entry *entry = insert(index, id, i);

    count_bytes(index);
    return entry;
}

void zc_index_remove(struct zc_index *index, uint64_t id, uint32_t i)
{
    uint32_t *at = object_place(index, id);
    struct object *object = object_at(index, *at);
    uint64_t h = hash(index, i);
    struct leaf *leaf = leaf_at(object, h);

    leaf_del(index, leaf, leaf_find(leaf, h, i));
    if (--object->count == 0) {
        object_free(index, at);
    } else {
        if (leaf->capacity > LEAF_MIN && leaf->count < leaf->capacity / 4)
            leaf_resize(index, object, h, leaf, smaller(leaf->capacity));
        leaf_merge(index, object, h, leaf_at(object, h));
    }
    count_bytes(index);
}

/* The leaves of an object, each once. NULL: no more. */
static struct leaf *next_leaf(const struct object *object, size_t *slot)
{
    if (*slot >> object->depth)
        return NULL;

    struct leaf *leaf = leaf_of(object->leaves[*slot]);
    *slot += (size_t)1 << (object->depth - leaf->depth);
    return leaf;
}

static size_t object_drop(struct zc_index *index, uint32_t *at, zc_index_drop *drop, void *arg)
{
    struct object *object = object_at(index, *at);
    size_t dropped = object->count, slot = 0;

    for (struct leaf *leaf; (leaf = next_leaf(object, &slot));) {
        for (uint32_t e = 0; e < leaf->capacity; e++) {
            if (leaf->entries[e].kind != ZC_ENTRY_EMPTY)
                drop(arg, object->id, &leaf->entries[e]);
        }
    }
    object_free(index, at);
    count_bytes(index);
    return dropped;
}

size_t zc_index_remove_object(struct zc_index *index, uint64_t id, zc_index_drop *drop, void *arg)
{
    if (!index->bucket_count)
        return 0;

    uint32_t *at = object_place(index, id);
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

static bool object_walk(const struct object *object, uint32_t number, zc_index_visit *visit,
                        void *arg)
{
    size_t slot = 0;

    for (struct leaf *leaf; (leaf = next_leaf(object, &slot));) {
        for (uint32_t e = 0; e < leaf->capacity; e++) {
            if (leaf->entries[e].kind != ZC_ENTRY_EMPTY && !visit(arg, number, &leaf->entries[e]))
                return false;
        }
    }
    return true;
}

bool zc_index_walk(const struct zc_index *index, zc_index_visit *visit, void *arg)
{
    for (size_t i = 0; i < index->bucket_count; i++) {
        for (uint32_t number = index->buckets[i]; number; number = object_at(index, number)->next) {
            if (!object_walk(object_at(index, number), number, visit, arg))
                return false;
        }
    }
    return true;
}

static const char *leaf_check(const struct zc_index *index, const struct object *object,
                              struct leaf *leaf)
{
    uint32_t count = 0;

    if (leaf->depth > object->depth)
        return "a leaf is deeper than its object's directory";
    for (uint32_t e = 0; e < leaf->capacity; e++) {
        struct zc_entry *entry = &leaf->entries[e];
        if (entry->kind == ZC_ENTRY_EMPTY)
            continue;
        uint64_t h = hash(index, entry->index);
        if (leaf_at(object, h) != leaf)
            return "an entry is in another leaf than its hash says";
        if (leaf_find(leaf, h, entry->index) != entry)
            return "an entry is not where a look-up ends";
        count++;
    }
    if (count != leaf->count || count > room(leaf->capacity))
        return "a leaf has another number of entries than it counts";
    return NULL;
}

static const char *object_check(const struct zc_index *index, const struct object *object)
{
    size_t slot = 0, first = 0;
    uint64_t count = 0;

    for (struct leaf *leaf; (leaf = next_leaf(object, &slot)); first = slot) {
        const char *wrong = leaf_check(index, object, leaf);
        if (wrong)
            return wrong;
        for (size_t i = first; i < slot; i++) {
            if (object->leaves[i] != refer(leaf))
                return "a directory does not name a leaf in all of its slots";
        }
        count += leaf->count;
    }
    return count == object->count && count > 0 ? NULL
                                               : "an object counts other entries than it has";
}

const char *zc_index_check(const struct zc_index *index)
{
    uint32_t objects = 0;

    for (size_t i = 0; i < index->bucket_count; i++) {
        for (uint32_t number = index->buckets[i]; number; number = object_at(index, number)->next) {
            struct object *object = object_at(index, number);
            if (bucket_of(index, object->id) != &index->buckets[i])
                return "an object is in another bucket than its hash says";
            const char *wrong = object_check(index, object);
            if (wrong)
                return wrong;
            objects++;
        }
    }
    return objects == index->objects.used ? NULL : "an object is in no bucket";
}
