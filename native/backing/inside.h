/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parts of a backing store share. The medium, all numbers little-endian:
 *
 *   0            superblock, and the same once more (super.c)
 *   ZC_WORDS_AT  of each segment, or page in place, what is live of it (words.c)
 *   data_at      records (packed.c), pages (in_place.c)
 *
 * All but the data goes through the page cache, by a descriptor of its own, and so survives the
 * process. The size of everything follows from the medium's size, the layout and the page size.
 *
 * Locks: `words`, then `lock`. Neither is held while records are written or read.
 */
#ifndef ZC_BACKING_INSIDE_H
#define ZC_BACKING_INSIDE_H

#include <pthread.h>
#include <stdatomic.h>

#include "backing/backing.h"
#include "base/base.h"
#include "base/node.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the medium is little-endian");

/* ---- io.c, direct.c ---- */

extern const struct zc_io zc_system_io;
bool zc_tells_direct(int fd);

/* ---- medium.c: the file or device, opened twice ---- */

struct zc_medium {
    struct zc_io io;
    int data; /* for records; by O_DIRECT where it can be had */
    int meta; /* for all else; through the page cache */
    bool is_direct;
    struct zc_medium_info info;
    _Atomic uint64_t written[ZC_WEARS], discarded, write_errors, read_errors;
};

int zc_medium_open(struct zc_medium *medium, const struct zc_backing_config *config,
                   struct zc_text *why);
void zc_medium_close(struct zc_medium *medium);
/* Do pages stay out of the page cache? Reads the block at `at` and writes it back. */
bool zc_medium_is_direct(struct zc_medium *medium, uint64_t at);

/* All the bytes or -errno; *iov is used up. */
int zc_medium_read(struct zc_medium *medium, int fd, void *bytes, size_t size, uint64_t at);
int zc_medium_writev(struct zc_medium *medium, int fd, struct iovec *iov, int count, uint64_t at,
                     enum zc_wear wear);
int zc_medium_write(struct zc_medium *medium, int fd, const void *bytes, size_t size, uint64_t at,
                    enum zc_wear wear);
int zc_medium_zero(struct zc_medium *medium, uint64_t at, uint64_t size);
void zc_medium_discard(struct zc_medium *medium, uint64_t at, uint64_t size);
int zc_medium_sync(struct zc_medium *medium);

/* Memory aligned to ZC_BLOCK, of the OS alone. NULL: there is none. */
void *zc_pages_get(size_t size);
void zc_pages_put(void *pages, size_t size);

/* ---- super.c ---- */

#define ZC_SUPER_BYTES 8192u
#define ZC_WORDS_AT 65536u
#define ZC_POOL_BYTES 64u
#define ZC_BOOT_ID_BYTES 40u

enum zc_super_state {
    ZC_SUPER_CLEAN = 1, /* was closed so */
    ZC_SUPER_OPEN = 2,
    ZC_SUPER_OWING = 3, /* open, and some words are not what they should be */
};

struct zc_super {
    char magic[8];
    uint64_t checksum; /* of what follows */
    uint64_t serial;   /* of two that differ the greater counts */
    uint64_t id;       /* random; everything's checksum hangs on it */
    uint64_t generation;
    uint64_t size;   /* bytes of the medium */
    uint64_t object; /* in place: whose pages */
    uint32_t has_object;
    uint32_t state, layout, page_size;
    char boot_id[ZC_BOOT_ID_BYTES];
    char pool[ZC_POOL_BYTES];
    uint32_t codecs_size;
    uint8_t codecs[ZC_CODECS_MAX_BYTES];
    uint8_t unused[ZC_SUPER_BYTES - 8 - 6 * 8 - 4 * 4 - ZC_BOOT_ID_BYTES - ZC_POOL_BYTES - 4 -
                   ZC_CODECS_MAX_BYTES];
};

_Static_assert(sizeof(struct zc_super) == ZC_SUPER_BYTES, "a superblock has no padding");

/* Where things are. */
struct zc_geometry {
    uint64_t unit;   /* bytes of a segment; in place: of a page */
    uint64_t stride; /* bytes of its words */
    uint64_t count;  /* how many there are */
    uint64_t data_at;
};

size_t zc_segment_bytes(uint32_t page_size);
/* 0 or -ENOSPC. */
int zc_geometry(uint64_t size, enum zc_layout layout, uint32_t page_size, struct zc_geometry *out);

/* What is on the medium, or what is made there, and its state now written as open. */
int zc_super_open(struct zc_backing *backing, const struct zc_backing_config *config,
                  struct zc_text *why);
/* Writes backing->super, both copies. 0 or -errno. */
int zc_super_write(struct zc_backing *backing);

/* ---- the store ---- */

#define ZC_SLOTS 2048u /* records of a segment at most */
#define ZC_NO_SEGMENT UINT32_MAX

enum zc_segment_state {
    ZC_SEGMENT_FREE,
    ZC_SEGMENT_OPEN, /* a batch's, or the one that the next batch goes on with */
    ZC_SEGMENT_FULL,
};

/* The lock protects what is not atomic. */
struct zc_segment {
    uint64_t sequence;     /* no other's, ever; seeds checksums. Fixed while there are readers */
    _Atomic uint32_t life; /* grows whenever it is used anew; its lower bits are in places */
    _Atomic uint32_t readers;
    uint32_t fill;       /* bytes, from the front on */
    uint32_t live_bytes; /* of records */
    uint16_t slots;      /* given to records */
    uint16_t live;       /* records */
    uint8_t state;
    bool is_discarded; /* there is nothing in it to be discarded */
    bool is_dense;     /* cleaning gains nothing until something more of it dies */
};

/* In place, of each page. */
struct zc_slot {
    uint64_t checksum;
    uint32_t version; /* from 1 on, another one for every writing */
    uint32_t word;
};

/* Pages of a batch in place at most: of 1 MiB. */
#define ZC_BATCH_PAGES 256u

struct zc_layout_ops {
    int (*create)(struct zc_backing *backing); /* 0 or -ENOMEM */
    int (*recover)(struct zc_backing *backing, zc_recover_visit *visit, void *arg);
    int (*begin)(struct zc_batch *batch); /* 0 or -ENOMEM */
    void (*next)(struct zc_batch *batch); /* it was settled, and is empty */
    void (*end)(struct zc_batch *batch);
    int (*add)(struct zc_batch *batch, const struct zc_record *record, void **bytes);
    int (*commit)(struct zc_batch *batch, zc_place *places);
    int (*settle)(struct zc_batch *batch);
    int (*read)(struct zc_backing *backing, zc_place place, const struct zc_record *record,
                void *room, const void **bytes);
    /* Which of the batch's records that is; -1: none. */
    int64_t (*find)(const struct zc_batch *batch, zc_place place);
    /* The word that says it, and where it is. */
    uint32_t (*word)(const struct zc_backing *backing, zc_place place, uint16_t live, uint64_t *at);
    /* The record is dead. */
    void (*gone)(struct zc_backing *backing, zc_place place, uint32_t size);
};

extern const struct zc_layout_ops zc_packed_ops, zc_in_place_ops;

struct zc_backing {
    struct zc_medium medium;
    struct zc_super super; /* as it was last written; under `words`, once open */
    struct zc_geometry geometry;
    const struct zc_layout_ops *ops;
    struct zc_frames *frames;
    bool is_recovered;
    _Atomic uint64_t records, live_bytes, damaged;

    pthread_mutex_t lock; /* of the buffers and the segments */
    struct zc_buffers {
        char *base;     /* of the stretch; NULL: it is not there */
        unsigned taken; /* by number, a bit each */
    } buffers;

    /* Packed. */
    struct zc_segment *segments;
    uint32_t free_segments;
    uint32_t next;    /* where to look for a free one */
    uint32_t partial; /* open, and no batch's; or ZC_NO_SEGMENT */
    uint64_t sequence;

    /* words.c */
    pthread_mutex_t words;
    _Atomic uint32_t care;      /* batches committed and not settled, and 1 while words are owed */
    struct zc_batch *unsettled; /* linked by next */
    struct zc_text owed;        /* writes to be made up for, in their order */
    size_t repaid;              /* bytes of them that were */
    bool is_marked;             /* the superblock says so */
    _Atomic bool is_failed;
};

struct zc_batch {
    struct zc_backing *backing;
    struct zc_batch *next;
    char *buffer;
    uint32_t count; /* records */
    uint64_t bytes; /* of them */
    bool is_cleaning;
    bool is_committed;
    uint16_t live[ZC_SLOTS]; /* by record: what settling is to write */

    /* Between start and commit: who writes it, to where, and how that ended. */
    bool is_started;
    pthread_t writer;
    zc_place *places;
    int error;

    /* Packed: the buffer is what is to be written next to the segment, from `start` on. */
    uint32_t segment;
    uint32_t start, first; /* bytes and records that are in it already */
    uint32_t front;        /* bytes of the buffer in use */
    bool is_damaged;       /* the last record's checksum is to be wrong: it was so before */

    struct zc_in_place_page *pages; /* in place */
};

/* ---- buffers.c ---- */

#define ZC_BUFFERS \
    4u /* of the stretch: for those that writeback fills and writes, and for cleaning */

/* Memory for a batch, as zc_pages_get() has it; see zc_batch_create(). NULL: there is none. */
void *zc_buffer_get(struct zc_backing *backing, size_t coming);
void zc_buffer_put(struct zc_backing *backing, char *buffer);

/* ---- batches ---- */

void zc_backing_charge(struct zc_backing *backing, ptrdiff_t bytes);
/* Bytes of a batch's buffer. */
size_t zc_batch_room(const struct zc_backing *backing);
/* The parts of commit and settle that cleaning does in its own way. */
int zc_batch_write(struct zc_batch *batch, zc_place *places);
void zc_batch_clear(struct zc_batch *batch);
/* A record that was live, or is to be, is dead. */
void zc_record_gone(struct zc_backing *backing, zc_place place, uint32_t size);

/* ---- words.c: what says that a record is live ---- */

/* `live`, with a check of it and what it speaks of; 0 for 0. */
uint32_t zc_word(uint64_t seed, uint16_t live);
/* What a word says; -1: it is damaged, or speaks of something else. */
int zc_word_live(uint64_t seed, uint32_t word);

int zc_words_set(struct zc_backing *backing, zc_place place, uint16_t live);
/* To be called with `words` locked. Bytes of words; what cannot be written is owed. */
int zc_words_write(struct zc_backing *backing, const void *bytes, size_t size, uint64_t at);
/* Makes up for what is owed. 0 or -EIO. */
int zc_words_mend(struct zc_backing *backing);

void zc_words_unsettled(struct zc_backing *backing, struct zc_batch *batch);
int zc_words_settle(struct zc_backing *backing, struct zc_batch *batch);

#endif
