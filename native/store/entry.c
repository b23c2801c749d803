/* SPDX-License-Identifier: Apache-2.0 */
#include "store/entry.h"

#include <errno.h>
#include <string.h>

#include "base/base.h"
#include "base/hash.h"
#include "store/extent.h"

struct zc_shard *zc_shard_of(zc_pool *pool, uint64_t object, uint32_t index)
{
    uint64_t h = zc_mix64(zc_mix64(object ^ pool->secret) ^ index >> 8);

    return &pool->shards[h & (ZC_SHARDS - 1)];
}

/* The object's number, 28 bits, with the shard's below, then the index. */
uint64_t zc_entry_owner(const zc_pool *pool, const struct zc_shard *shard, uint64_t object,
                        uint32_t index)
{
    uint32_t number = zc_index_number(&shard->index, object);
    uint32_t high = number << ZC_SHARD_BITS | (uint32_t)(shard - pool->shards);

    return (uint64_t)high << 32 | index;
}

static struct zc_shard *shard_of_owner(zc_pool *pool, uint64_t owner)
{
    return &pool->shards[owner >> 32 & (ZC_SHARDS - 1)];
}

static uint32_t number_of_owner(uint64_t owner)
{
    return (uint32_t)(owner >> 32) >> ZC_SHARD_BITS;
}

struct zc_entry *zc_entry_lock_any(zc_pool *pool, uint64_t owner, struct zc_shard **shard,
                                   uint64_t *object)
{
    if (owner == ZC_NO_OWNER)
        return NULL;
    *shard = shard_of_owner(pool, owner);
    zc_shard_lock(*shard);
    struct zc_entry *entry =
        zc_index_find_by_number(&(*shard)->index, number_of_owner(owner), (uint32_t)owner, object);
    if (!entry)
        zc_shard_unlock(*shard);
    return entry;
}

void zc_entries_prefetch(zc_pool *pool, const uint64_t *owners, size_t count)
{
    struct zc_shard *locked = NULL;

    for (size_t i = 0; i < count; i++) {
        struct zc_shard *shard = shard_of_owner(pool, owners[i]);
        if (owners[i] == ZC_NO_OWNER)
            continue;
        if (shard != locked) {
            if (locked)
                zc_shard_unlock(locked);
            zc_shard_share(shard);
            locked = shard;
        }
        zc_index_prefetch_by_number(&shard->index, number_of_owner(owners[i]), (uint32_t)owners[i]);
    }
    if (locked)
        zc_shard_unlock(locked);
}

struct zc_entry *zc_entry_lock(zc_pool *pool, uint64_t owner, zc_handle handle,
                               struct zc_shard **shard, uint64_t *object)
{
    struct zc_entry *entry = zc_entry_lock_any(pool, owner, shard, object);

    if (!entry || (zc_entry_has_zpage(entry) && zc_entry_handle(entry) == handle))
        return entry;
    zc_shard_unlock(*shard);
    return NULL;
}

void zc_shard_count_bytes(zc_pool *pool, struct zc_shard *shard)
{
    size_t bytes = shard->index.bytes + zc_extents_bytes(shard), delta = bytes - shard->index_bytes;
    if (delta == 0)
        return;

    shard->index_bytes = bytes;
    atomic_fetch_add_explicit(&pool->metadata_bytes, delta, memory_order_relaxed);
    zc_frames_charge(pool->store->frames, (ptrdiff_t)delta);
}

size_t zc_dist_bucket(const zc_pool *pool, size_t size)
{
    return zc_div_pow2((size - 1) * ZC_DIST_BUCKETS, pool->store->page_size);
}

/* A counter that only the holder of the shard's lock writes. */
static void add(_Atomic uint64_t *counter, uint64_t by)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + by,
                          memory_order_relaxed);
}

void zc_entry_account(zc_pool *pool, struct zc_shard *shard, const struct zc_entry *entry,
                      int64_t by)
{
    uint64_t delta = (uint64_t)by;

    switch ((enum zc_entry_kind)entry->kind) {
    case ZC_ENTRY_ZPAGE:
        shard->stats.zpages += delta;
        shard->stats.zbytes += delta * entry->size;
        shard->curr_dist[zc_dist_bucket(pool, entry->size)] += delta;
        add(&shard->zpages, delta);
        add(&shard->zbytes, delta * entry->size);
        add(&shard->codec_zpages[entry->codec], delta);
        break;
    case ZC_ENTRY_RAW:
        shard->stats.raw_pages += delta;
        break;
    case ZC_ENTRY_FILL:
        shard->stats.same_filled += delta;
        break;
    case ZC_ENTRY_WRITTEN:
        shard->stats.written_pages += delta;
        if (zc_written_is_compressed(entry))
            add(&shard->codec_zpages[entry->codec], delta);
        break;
    case ZC_ENTRY_COLD:
        shard->stats.cold_pages += delta;
        add(&shard->codec_zpages[entry->codec], delta);
        break;
    case ZC_ENTRY_EMPTY:
        break;
    }
}

struct zc_entry zc_entry_take_out(zc_pool *pool, struct zc_shard *shard, uint64_t object,
                                  const struct zc_entry *entry)
{
    struct zc_entry taken = *entry;

    zc_entry_account(pool, shard, &taken, -1);
    zc_index_remove(&shard->index, object, taken.index);
    zc_entry_forget(pool, shard, object, &taken);
    return taken;
}

void zc_entry_forget(zc_pool *pool, struct zc_shard *shard, uint64_t object,
                     const struct zc_entry *gone)
{
    zc_written_forget(pool, shard, object, gone);
    zc_extent_leave(pool, shard, gone);
    zc_shard_count_bytes(pool, shard);
}

size_t zc_entry_release(zc_pool *pool, const struct zc_entry *entry)
{
    if (!zc_entry_has_zpage(entry))
        return zc_entry_is_cold(entry);
    pool->alloc_ops->free(pool->alloc, zc_entry_handle(entry));
    return 1;
}

struct zc_entry zc_written_entry(const struct zc_record *record, unsigned codec, zc_place place)
{
    unsigned span = (unsigned)__builtin_ctz(record->pages);

    return (struct zc_entry){
        .index = record->index,
        .size = record->size & 0x1fffff,
        .kind = ZC_ENTRY_WRITTEN,
        .codec = codec & 0xf,
        .span = span & 7,
        .word = place | (record->flags & ZC_RECORD_RAW ? ZC_WRITTEN_RAW : 0) |
                (record->flags & ZC_RECORD_FILL ? ZC_WRITTEN_FILL : 0),
    };
}

struct zc_record zc_written_record(uint64_t object, const struct zc_entry *entry)
{
    unsigned pages = zc_entry_pages(entry);

    return (struct zc_record){
        .object = object,
        .index = entry->index & ~(pages - 1),
        .size = entry->size,
        .pages = (uint8_t)pages,
    };
}

/* Pages of the record that the index still has, by their place in it. */
static uint16_t written_live(const struct zc_shard *shard, const struct zc_record *record,
                             const struct zc_entry *entry)
{
    uint16_t live = 0;

    for (unsigned i = 0; i < record->pages; i++) {
        const struct zc_entry *other =
            zc_index_find(&shard->index, record->object, record->index + i);
        if (other && zc_entry_is_written(other) && other->word == entry->word)
            live |= (uint16_t)(1u << i);
    }
    return live;
}

/* What fails is the store's to count and to make up for. */
static void keep(zc_pool *pool, const struct zc_entry *entry, uint16_t live)
{
    struct zc_backing *store = zc_writeback_enter(pool);

    if (store)
        zc_backing_keep(store, zc_written_place(entry), entry->size, live);
    zc_writeback_leave(pool);
}

void zc_written_forget(zc_pool *pool, const struct zc_shard *shard, uint64_t object,
                       const struct zc_entry *gone)
{
    if (!zc_entry_is_written(gone))
        return;

    struct zc_record record = zc_written_record(object, gone);
    keep(pool, gone, record.pages > 1 ? written_live(shard, &record, gone) : 0);
}

void zc_written_drop(zc_pool *pool, const struct zc_shard *shard, uint64_t object,
                     const struct zc_entry *entry)
{
    if (!zc_entry_is_written(entry))
        return;

    struct zc_record record = zc_written_record(object, entry);
    unsigned first =
        record.pages > 1 ? (unsigned)__builtin_ctz(written_live(shard, &record, entry)) : 0;
    if (record.index + first == entry->index || record.pages == 1)
        keep(pool, entry, 0);
}

static void fill(void *page, size_t page_size, uint64_t word)
{
    char *bytes = page;

    for (size_t i = 0; i < page_size; i += sizeof(word))
        memcpy(bytes + i, &word, sizeof(word));
}

static int no_room(const struct zc_reader *reader)
{
    return reader->no_alloc ? -EAGAIN : -ENOMEM;
}

/* The first `upto` bytes of the page, or run of pages, at least. */
static int decompress(struct zc_reader *reader, unsigned number, const void *bytes, size_t size,
                      void *page, size_t upto)
{
    zc_pool *pool = reader->pool;
    const struct zc_codec *codec = zc_codecs_at(&pool->codecs, number);
    struct zc_decompressor *mine = reader->decompressor;

    if (!codec->decompressor_size)
        return zc_decompress_some(codec, NULL, bytes, size, page, upto);
    if (mine && mine->kind != codec->kind) {
        zc_decompressor_give(pool, mine);
        mine = NULL;
    }
    reader->decompressor = mine =
        mine ? mine : zc_decompressor_take(pool, codec, !reader->no_alloc);
    return mine ? zc_decompress_some(codec, mine->state, bytes, size, page, upto) : no_room(reader);
}

/* Room for an extent's pages and its bytes. */
static char *unpacked_room(struct zc_reader *reader, unsigned pages)
{
    size_t size = 2 * pages * reader->pool->store->page_size;

    if (reader->unpacked && reader->unpacked->size < size) {
        zc_room_give(reader->pool, reader->unpacked);
        reader->unpacked = NULL;
    }
    if (!reader->unpacked)
        reader->unpacked = zc_room_take(reader->pool, size, !reader->no_alloc);
    return reader->unpacked ? reader->unpacked->bytes : NULL;
}

/* Where the entry's page is in its run. */
static size_t offset_of(const struct zc_reader *reader, const struct zc_entry *entry)
{
    return (entry->index & (zc_entry_pages(entry) - 1)) * reader->pool->store->page_size;
}

static void copy_member(const struct zc_reader *reader, const struct zc_entry *entry, void *page)
{
    memcpy(page, reader->unpacked->bytes + offset_of(reader, entry),
           reader->pool->store->page_size);
}

/* A page of an extent whose bytes are somewhere else than in memory. */
static int load_member(struct zc_reader *reader, const struct zc_entry *entry, const void *bytes,
                       void *page)
{
    char *room = unpacked_room(reader, zc_entry_pages(entry));
    if (!room)
        return no_room(reader);

    reader->unpacked_word = 0;
    int error = decompress(reader, entry->codec, bytes, entry->size, room,
                           offset_of(reader, entry) + reader->pool->store->page_size);
    if (!error)
        copy_member(reader, entry, page);
    return error;
}

/* The bytes of an extent to behind the room for its pages, of which none is there yet. */
static int fetch_extent(struct zc_reader *reader, const struct zc_extent *extent, zc_handle word)
{
    unsigned pages = 1u << extent->span;
    char *room = unpacked_room(reader, pages);
    if (!room)
        return no_room(reader);

    reader->unpacked_word = 0;
    int error = zc_extent_read(reader->pool, extent, room + pages * reader->pool->store->page_size);
    if (error)
        return error;
    reader->unpacked_word = word;
    reader->unpacked_size = extent->size;
    reader->unpacked_pages = pages;
    reader->unpacked_upto = 0;
    return 0;
}

/* Neighbours are often asked for together: an extent's pages are kept, and when a second look finds that more
 * of them are needed all are unpacked. */
static int unpack(struct zc_reader *reader, const struct zc_shard *shard,
                  const struct zc_entry *entry, size_t upto)
{
    size_t all = zc_entry_pages(entry) * reader->pool->store->page_size;
    zc_handle word = zc_entry_handle(entry);
    int error = 0;

    if (reader->unpacked_word != word)
        error = fetch_extent(reader, zc_extent_at(shard, word), word);
    else if (reader->unpacked_upto < upto)
        upto = all;
    if (error || reader->unpacked_upto >= upto)
        return error;
    char *room = reader->unpacked->bytes;
    error = decompress(reader, entry->codec, room + all, reader->unpacked_size, room, upto);
    reader->unpacked_upto = error ? 0 : upto;
    return error;
}

static int load_cold(struct zc_reader *reader, const struct zc_shard *shard,
                     const struct zc_entry *entry, void *page)
{
    int error =
        unpack(reader, shard, entry, offset_of(reader, entry) + reader->pool->store->page_size);

    if (!error)
        copy_member(reader, entry, page);
    return error;
}

int zc_reader_unpack(struct zc_reader *reader, const struct zc_shard *shard,
                     const struct zc_entry *entry)
{
    return unpack(reader, shard, entry, zc_entry_pages(entry) * reader->pool->store->page_size);
}

bool zc_reader_has(const struct zc_reader *reader, const struct zc_extent *extent)
{
    size_t at = reader->unpacked_pages * reader->pool->store->page_size;

    return 1u << extent->span == reader->unpacked_pages && extent->size == reader->unpacked_size &&
           zc_extent_has_bytes(reader->pool, extent, reader->unpacked->bytes + at);
}

static int make_room(struct zc_reader *reader, size_t size)
{
    size_t room = zc_backing_room(size);

    if (room <= reader->room_size)
        return 0;
    free(reader->room);
    reader->room = aligned_alloc(ZC_BLOCK, zc_div_up(room, ZC_BLOCK) * ZC_BLOCK);
    reader->room_size = reader->room ? room : 0;
    return reader->room ? 0 : -ENOMEM;
}

void zc_reader_fetch(struct zc_reader *reader, uint64_t object, const struct zc_entry *entry)
{
    struct zc_record record = zc_written_record(object, entry);
    struct zc_backing *store = zc_writeback_enter(reader->pool);

    reader->error = store ? make_room(reader, record.size) : -EIO;
    if (!reader->error)
        reader->error =
            zc_backing_read(store, zc_written_place(entry), &record, reader->room, &reader->record);
    zc_writeback_leave(reader->pool);
}

static int load_written(struct zc_reader *reader, const struct zc_entry *entry, void *page)
{
    size_t page_size = reader->pool->store->page_size;
    uint64_t word;

    if (reader->error)
        return reader->error == -ENOMEM ? -ENOMEM : -EIO;
    if (entry->word & ZC_WRITTEN_RAW) {
        memcpy(page, reader->record, page_size);
        return 0;
    }
    if (entry->word & ZC_WRITTEN_FILL) {
        memcpy(&word, reader->record, sizeof(word));
        fill(page, page_size, word);
        return 0;
    }
    if (zc_entry_pages(entry) > 1)
        return load_member(reader, entry, reader->record, page);
    return decompress(reader, entry->codec, reader->record, entry->size, page, page_size);
}

int zc_entry_load(struct zc_reader *reader, const struct zc_shard *shard,
                  const struct zc_entry *entry, void *page)
{
    zc_pool *pool = reader->pool;
    size_t page_size = pool->store->page_size;

    if (zc_entry_is_written(entry))
        return reader->no_alloc ? -EAGAIN : load_written(reader, entry, page);
    if (entry->kind == ZC_ENTRY_FILL) {
        fill(page, page_size, entry->word);
        return 0;
    }
    if (zc_entry_is_cold(entry))
        return load_cold(reader, shard, entry, page);
    struct zc_zpage zpage = pool->alloc_ops->map(pool->alloc, zc_entry_handle(entry));
    if (entry->is_checked && zc_checksum(zpage.bytes, entry->size) != zpage.head->checksum)
        return -EIO;
    if (entry->kind == ZC_ENTRY_RAW) {
        memcpy(page, zpage.bytes, page_size);
        return 0;
    }
    return decompress(reader, entry->codec, zpage.bytes, entry->size, page, page_size);
}

void zc_reader_end(struct zc_reader *reader)
{
    if (reader->decompressor)
        zc_decompressor_give(reader->pool, reader->decompressor);
    if (reader->unpacked)
        zc_room_give(reader->pool, reader->unpacked);
    free(reader->room);
}
