/* SPDX-License-Identifier: Apache-2.0 */
/* What writing to segments and cleaning them share. */
#ifndef ZC_BACKING_PACKED_H
#define ZC_BACKING_PACKED_H

#include "backing/inside.h"

/*
 * A batch in a segment: head, records, table, zeros to the end of the block. The head can be found
 * and trusted alone; it says where the table is.
 */
struct zc_head {
    uint32_t magic;
    uint32_t count;          /* records */
    uint64_t checksum;       /* of what follows */
    uint64_t id;             /* the store's */
    uint64_t sequence;       /* the segment's */
    uint32_t segment, start; /* where this batch is; start: bytes from the segment's front on */
    uint32_t length;         /* bytes, whole blocks */
    uint32_t table_at;       /* bytes from the head on */
    uint32_t first;          /* slot of the first record */
    uint32_t unused;
    uint64_t table_checksum;
};

/* Of each record; the last one's comes first, because the table grows down as long as the batch
 * does. */
struct zc_table_entry {
    uint64_t object;
    uint32_t index, size;
    uint32_t offset; /* bytes from the head on, to the record's checksum, which its bytes follow */
    uint8_t pages, codec, flags, unused;
};

#define ZC_HEAD_MAGIC 0x6863627au /* "zbch" */
#define ZC_HEAD_BYTES 64u
#define ZC_TABLE_ENTRY_BYTES 24u
#define ZC_RECORD_HEAD_BYTES 8u /* the checksum */

_Static_assert(sizeof(struct zc_head) == ZC_HEAD_BYTES, "a head has no padding");
_Static_assert(sizeof(struct zc_table_entry) == ZC_TABLE_ENTRY_BYTES, "nor has an entry");

/* ---- segment.c ---- */

/* Where a record is: its checksum, which its bytes follow. */
struct zc_spot {
    uint32_t segment, offset, slot, life; /* offset: bytes from the segment's front on */
};

zc_place zc_place_of(const struct zc_backing *backing, const struct zc_spot *spot);
struct zc_spot zc_spot_of(const struct zc_backing *backing, zc_place place);
/* Offsets are multiples of it. */
uint32_t zc_granule(const struct zc_backing *backing);

/* What words and checksums of the record in that slot are seeded with. */
uint64_t zc_slot_seed(const struct zc_backing *backing, uint64_t sequence, uint32_t slot);
/* Of a record's bytes. */
uint64_t zc_record_checksum(uint64_t slot_seed, const struct zc_record *record, const void *bytes);

/* Of a batch's head. */
uint64_t zc_head_checksum(const struct zc_head *head);

/* Is `life` what a place says of the lives of a segment? */
bool zc_life_is(uint32_t life, uint32_t of_place);
uint64_t zc_words_at(const struct zc_backing *backing, uint32_t segment);
uint64_t zc_segment_at(const struct zc_backing *backing, uint32_t segment);

/* One to be filled, which may be filled in part; the last free one is for cleaning only. 0 or
 * -ENOSPC. */
int zc_segment_take(struct zc_backing *backing, bool is_cleaning, uint32_t *out);
/* Is there enough left of it for another batch? */
bool zc_segment_has_room(const struct zc_backing *backing, uint32_t segment);
/* The batch that had it needs it no more; the next one goes on with it if it has room. */
void zc_segment_give(struct zc_backing *backing, uint32_t segment);
/* Nothing more is to be written there. */
void zc_segment_close(struct zc_backing *backing, uint32_t segment);

/* ---- walk.c: the live records of a segment ---- */

struct zc_walk {
    struct zc_backing *backing;
    uint32_t segment;
    const uint32_t *words; /* ZC_SLOTS */
    /* The bytes at `at` in the segment, as long as no others are loaded. NULL: not to be had. */
    const char *(*load)(struct zc_walk *walk, uint32_t at, uint32_t size);
    void (*visit)(struct zc_walk *walk, const struct zc_record *record, const struct zc_spot *spot);
};

/* Returns how many words speak of no record that can be found. The segment's sequence is set to
 * that of its records, if there are some. */
uint32_t zc_segment_walk(struct zc_walk *walk);
/* Reads the words; *any: one is not 0. */
int zc_segment_words(struct zc_backing *backing, uint32_t segment, uint32_t words[ZC_SLOTS],
                     bool *any);

int zc_packed_recover(struct zc_backing *backing, zc_recover_visit *visit, void *arg);

#endif
